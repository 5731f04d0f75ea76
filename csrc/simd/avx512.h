// The primitives of AVX-512, the same ones as those of avx2.h, and of its 16-bit dot products (VNNI).
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>

#include <cstdint>

#define LIIF_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#define LIIF_VNNI __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))

namespace liif::avx512 {

using Vector = __m512;   // floats
using Bits = __m512i;    // 32-bit integers, or the bits of floats
using Mask = __mmask16;  // a bit for each lane

constexpr int kLanes = 16;

LIIF_AVX512 inline Vector zeros() { return _mm512_setzero_ps(); }
LIIF_AVX512 inline Vector spread(float x) { return _mm512_set1_ps(x); }
LIIF_AVX512 inline Vector load(const float* p) { return _mm512_loadu_ps(p); }
LIIF_AVX512 inline void store(float* p, Vector v) { _mm512_storeu_ps(p, v); }
LIIF_AVX512 inline Vector add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
LIIF_AVX512 inline Vector sub(Vector a, Vector b) { return _mm512_sub_ps(a, b); }
LIIF_AVX512 inline Vector mul(Vector a, Vector b) { return _mm512_mul_ps(a, b); }
// a * b + c, rounded once.
LIIF_AVX512 inline Vector fused(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
// Negative values become zero. The maximum gives its second operand where one is NaN, so NaN stays.
LIIF_AVX512 inline Vector relu(Vector v) { return _mm512_max_ps(zeros(), v); }
// v where h > 0, else zero: the backward of a ReLU whose result is h. `Not less or equal` lets v through where h is
// NaN.
LIIF_AVX512 inline Vector where_positive(Vector h, Vector v) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(h, zeros(), _CMP_NLE_UQ), v);
}

// The pointer p, but not before v is known: else Clang brings a step's inputs into registers all at once, and spills
// sums.
LIIF_AVX512 inline const char* after([[maybe_unused]] Vector v, const char* p) {
#if defined(__clang__)
    asm("" : "+r"(p) : "v"(v));
#endif
    return p;
}

LIIF_AVX512 inline Bits no_bits() { return _mm512_setzero_si512(); }
LIIF_AVX512 inline Bits spread_bits(int32_t x) { return _mm512_set1_epi32(x); }
LIIF_AVX512 inline Bits load_bits(const void* p) { return _mm512_loadu_si512(p); }
LIIF_AVX512 inline void store_bits(void* p, Bits v) { _mm512_storeu_si512(p, v); }
LIIF_AVX512 inline Bits either(Bits a, Bits b) { return _mm512_or_si512(a, b); }
LIIF_AVX512 inline Bits add_bits(Bits a, Bits b) { return _mm512_add_epi32(a, b); }
LIIF_AVX512 inline Bits mul_bits(Bits a, Bits b) { return _mm512_mullo_epi32(a, b); }
// 0, 1, 2, ...
LIIF_AVX512 inline Bits lane_numbers() {
    return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

// The first `left` lanes, none where `left` is negative.
inline Mask first_lanes(int64_t left) {
    return static_cast<Mask>(left >= kLanes ? 0xFFFF : (1u << (left < 0 ? 0 : left)) - 1);
}
// The lanes that are not zero.
LIIF_AVX512 inline Mask not_zero(Bits bits) { return _mm512_test_epi32_mask(bits, bits); }
// The floats that are neither 0 nor -0.
LIIF_AVX512 inline Mask nonzero_floats(Bits bits) { return _mm512_test_epi32_mask(bits, spread_bits(0x7FFFFFFF)); }

// A mask's lanes at the front; what stands behind them is of no use.
LIIF_AVX512 inline Bits to_front(Mask mask, Bits values) { return _mm512_maskz_compress_epi32(mask, values); }
// Values from the front back to a mask's lanes, zero in the others.
LIIF_AVX512 inline Bits from_front(Mask mask, Bits values) { return _mm512_maskz_expand_epi32(mask, values); }

// sum + the two products of 16-bit words in each 32-bit lane. Not the intrinsic: around it GCC 12 copies and spills the
// sums in every step.
LIIF_VNNI inline __m512i dot_add(__m512i sum, __m512i a, __m512i b) {
    asm("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
}

}  // namespace liif::avx512
#endif
