// Packing for any vectors. To be included in an anonymous namespace with the primitives of one instruction set (simd/)
// and LIIF_TARGET, the functions' target attribute.

// Bytes of a mask.
constexpr int64_t kMaskBytes = kLanes / 8;

LIIF_TARGET void pack_rows(const float* values, int64_t rows, int64_t width, char* to) {
    const int64_t vectors = width / kLanes;
    for (int64_t r = 0; r < rows; ++r) {
        char* masks = to;
        to += vectors * kMaskBytes;
        for (int64_t v = 0; v < vectors; ++v, values += kLanes) {
            const Bits value = load_bits(values);
            const Mask mask = not_zero(value);
            std::memcpy(masks + v * kMaskBytes, &mask, kMaskBytes);
            store_bits(to, to_front(mask, value));
            to += __builtin_popcount(mask) * static_cast<int>(sizeof(float));
        }
    }
}

LIIF_TARGET void unpack_rows(const char* from, int64_t rows, int64_t width, float* values) {
    const int64_t vectors = width / kLanes;
    for (int64_t r = 0; r < rows; ++r) {
        const char* masks = from;
        from += vectors * kMaskBytes;
        for (int64_t v = 0; v < vectors; ++v, values += kLanes) {
            __builtin_prefetch(from + kAhead, 0, 3);
            Mask mask = 0;
            std::memcpy(&mask, masks + v * kMaskBytes, kMaskBytes);
            store_bits(values, from_front(mask, load_bits(from)));
            from += __builtin_popcount(mask) * static_cast<int>(sizeof(float));
        }
    }
}
