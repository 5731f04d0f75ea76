// Each row is a mask for every kVector values, then the values that are not zero.
#include "decoder/packing.h"

#include <cstring>

#include "layers/layer.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include "simd/avx2.h"

#define LIIF_AVX512 __attribute__((target("avx512f")))
#endif

namespace liif {
namespace {

static_assert(kVector == 16, "one bit of a mask for each value of a vector");

#if defined(__x86_64__)
// What is unpacked comes from memory, in runs too short for the processor to have fetched the next of them by itself.
constexpr int64_t kAhead = 2048;  // bytes

LIIF_AVX512 void pack_avx512(const float* values, int64_t vectors, int64_t rows, char* to) {
    for (int64_t r = 0; r < rows; ++r) {
        char* masks = to;
        to += vectors * static_cast<int64_t>(sizeof(uint16_t));
        for (int64_t v = 0; v < vectors; ++v, values += kVector) {
            const __m512i value = _mm512_loadu_si512(values);
            const __mmask16 mask = _mm512_test_epi32_mask(value, value);
            std::memcpy(masks + v * static_cast<int64_t>(sizeof(uint16_t)), &mask, sizeof(uint16_t));
            _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(mask, value));
            to += __builtin_popcount(mask) * static_cast<int>(sizeof(float));
        }
    }
}

LIIF_AVX512 void unpack_avx512(const char* from, int64_t vectors, int64_t rows, float* values) {
    for (int64_t r = 0; r < rows; ++r) {
        const char* masks = from;
        from += vectors * static_cast<int64_t>(sizeof(uint16_t));
        for (int64_t v = 0; v < vectors; ++v, values += kVector) {
            _mm_prefetch(from + kAhead, _MM_HINT_T0);
            uint16_t mask;
            std::memcpy(&mask, masks + v * static_cast<int64_t>(sizeof(uint16_t)), sizeof(uint16_t));
            _mm512_storeu_si512(values, _mm512_maskz_expand_epi32(mask, _mm512_loadu_si512(from)));
            from += __builtin_popcount(mask) * static_cast<int>(sizeof(float));
        }
    }
}

LIIF_AVX2 void pack_avx2(const float* values, int64_t vectors, int64_t rows, char* to) {
    for (int64_t r = 0; r < rows; ++r) {
        char* masks = to;
        to += vectors * static_cast<int64_t>(sizeof(uint16_t));
        for (int64_t half = 0; half < 2 * vectors; ++half, values += kLanes) {
            const __m256i value = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values));
            const unsigned mask = not_zero(value);
            masks[half] = static_cast<char>(mask);
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_permutevar8x32_epi32(value, to_front(mask)));
            to += __builtin_popcount(mask) * static_cast<int>(sizeof(float));
        }
    }
}

LIIF_AVX2 void unpack_avx2(const char* from, int64_t vectors, int64_t rows, float* values) {
    for (int64_t r = 0; r < rows; ++r) {
        const char* masks = from;
        from += vectors * static_cast<int64_t>(sizeof(uint16_t));
        for (int64_t half = 0; half < 2 * vectors; ++half, values += kLanes) {
            _mm_prefetch(from + kAhead, _MM_HINT_T0);
            const unsigned mask = static_cast<uint8_t>(masks[half]);
            const __m256i found = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(values), from_front(mask, found));
            from += __builtin_popcount(mask) * static_cast<int>(sizeof(float));
        }
    }
}

bool has_avx512() { return __builtin_cpu_supports("avx512f"); }
bool has_avx2() { return __builtin_cpu_supports("avx2"); }
#endif

}  // namespace

size_t packed_bytes(int64_t rows, int64_t width) {
    const int64_t vectors = padded(width) / kVector;
    // A vector is written, and read, whole.
    return static_cast<size_t>(rows * vectors) * (sizeof(uint16_t) + kVector * sizeof(float)) + kVector * sizeof(float);
}

void pack(const float* values, int64_t rows, int64_t width, char* to) {
    const int64_t vectors = padded(width) / kVector;
#if defined(__x86_64__)
    if (has_avx512()) {
        pack_avx512(values, vectors, rows, to);
        return;
    }
    if (has_avx2()) {
        pack_avx2(values, vectors, rows, to);
        return;
    }
#endif
    for (int64_t r = 0; r < rows; ++r) {
        char* masks = to;
        to += vectors * static_cast<int64_t>(sizeof(uint16_t));
        for (int64_t v = 0; v < vectors; ++v) {
            uint16_t mask = 0;
            for (int i = 0; i < kVector; ++i, ++values) {
                const bool some = *values != 0;
                std::memcpy(to, values, sizeof(float));
                to += some ? sizeof(float) : 0;
                mask = static_cast<uint16_t>(mask | some << i);
            }
            std::memcpy(masks + v * static_cast<int64_t>(sizeof(uint16_t)), &mask, sizeof(uint16_t));
        }
    }
}

void unpack(const char* from, int64_t rows, int64_t width, float* values) {
    const int64_t vectors = padded(width) / kVector;
#if defined(__x86_64__)
    if (has_avx512()) {
        unpack_avx512(from, vectors, rows, values);
        return;
    }
    if (has_avx2()) {
        unpack_avx2(from, vectors, rows, values);
        return;
    }
#endif
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

}  // namespace liif
