// Each row is a mask for every kVector values, then the values that are not zero.
#include "decoder/packing.h"

#include <cstring>

#include "cpu.h"
#include "layers/layer.h"
#include "simd/avx2.h"
#include "simd/avx512.h"

namespace liif {
namespace {

static_assert(kVector == 16, "one bit of a mask for each value of a vector");

// What is unpacked comes from memory, in runs too short for the processor to have fetched the next of them by itself.
[[maybe_unused]] constexpr int64_t kAhead = 2048;  // bytes

#if defined(__x86_64__)
namespace with_avx2 {
using namespace avx2;
#define LIIF_TARGET LIIF_AVX2
#include "decoder/packing.inc.h"
#undef LIIF_TARGET
}  // namespace with_avx2

namespace with_avx512 {
using namespace avx512;
#define LIIF_TARGET LIIF_AVX512
#include "decoder/packing.inc.h"
#undef LIIF_TARGET
}  // namespace with_avx512
#endif

namespace with_any {

void pack_rows(const float* values, int64_t rows, int64_t width, char* to) {
    const int64_t vectors = width / kVector;
    for (int64_t r = 0; r < rows; ++r) {
        char* masks = to;
        to += vectors * static_cast<int64_t>(sizeof(uint16_t));
        for (int64_t v = 0; v < vectors; ++v) {
            uint16_t mask = 0;
            for (int i = 0; i < kVector; ++i, ++values) {
                uint32_t bits;
                std::memcpy(&bits, values, sizeof(bits));
                std::memcpy(to, &bits, sizeof(bits));
                to += bits ? sizeof(bits) : 0;
                mask = static_cast<uint16_t>(mask | (bits != 0) << i);
            }
            std::memcpy(masks + v * static_cast<int64_t>(sizeof(uint16_t)), &mask, sizeof(uint16_t));
        }
    }
}

void unpack_rows(const char* from, int64_t rows, int64_t width, float* values) {
    const int64_t vectors = width / kVector;
    for (int64_t r = 0; r < rows; ++r) {
        const char* masks = from;
        from += vectors * static_cast<int64_t>(sizeof(uint16_t));
        for (int64_t v = 0; v < vectors; ++v) {
            uint16_t mask;
            std::memcpy(&mask, masks + v * static_cast<int64_t>(sizeof(uint16_t)), sizeof(uint16_t));
            for (int i = 0; i < kVector; ++i, ++values) {
                std::memcpy(values, from, sizeof(float));
                const bool some = mask >> i & 1;
                *values = some ? *values : 0.0f;
                from += some ? sizeof(float) : 0;
            }
        }
    }
}

}  // namespace with_any

struct Functions {
    void (*pack)(const float* values, int64_t rows, int64_t width, char* to);
    void (*unpack)(const char* from, int64_t rows, int64_t width, float* values);
};

const Functions& functions() {
#if defined(__x86_64__)
    static const Functions chosen = has_avx512() ? Functions{with_avx512::pack_rows, with_avx512::unpack_rows}
                                    : has_avx2() ? Functions{with_avx2::pack_rows, with_avx2::unpack_rows}
                                                 : Functions{with_any::pack_rows, with_any::unpack_rows};
#else
    static const Functions chosen = {with_any::pack_rows, with_any::unpack_rows};
#endif
    return chosen;
}

}  // namespace

size_t packed_bytes(int64_t rows, int64_t width) {
    const int64_t vectors = padded(width) / kVector;
    // A vector is written, and read, whole.
    return static_cast<size_t>(rows * vectors) * (sizeof(uint16_t) + kVector * sizeof(float)) + kVector * sizeof(float);
}

void pack(const float* values, int64_t rows, int64_t width, char* to) {
    functions().pack(values, rows, padded(width), to);
}

void unpack(const char* from, int64_t rows, int64_t width, float* values) {
    functions().unpack(from, rows, padded(width), values);
}

}  // namespace liif
