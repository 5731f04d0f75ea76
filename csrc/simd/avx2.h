// The primitives of AVX2. avx512.h has the same ones, so that what is written with them alone (*.inc.h) serves both.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>

#include <array>
#include <cstddef>
#include <cstdint>

#define LIIF_AVX2 __attribute__((target("avx2,fma,popcnt")))

namespace liif::avx2 {

using Vector = __m256;  // floats
using Bits = __m256i;   // 32-bit integers, or the bits of floats
using Mask = unsigned;  // a bit for each lane

constexpr int kLanes = 8;

LIIF_AVX2 inline Vector zeros() { return _mm256_setzero_ps(); }
LIIF_AVX2 inline Vector spread(float x) { return _mm256_set1_ps(x); }
LIIF_AVX2 inline Vector load(const float* p) { return _mm256_loadu_ps(p); }
LIIF_AVX2 inline void store(float* p, Vector v) { _mm256_storeu_ps(p, v); }
LIIF_AVX2 inline Vector add(Vector a, Vector b) { return _mm256_add_ps(a, b); }
LIIF_AVX2 inline Vector sub(Vector a, Vector b) { return _mm256_sub_ps(a, b); }
LIIF_AVX2 inline Vector mul(Vector a, Vector b) { return _mm256_mul_ps(a, b); }
// a * b + c, rounded once.
LIIF_AVX2 inline Vector fused(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
// Negative values become zero. The maximum gives its second operand where one is NaN, so NaN stays.
LIIF_AVX2 inline Vector relu(Vector v) { return _mm256_max_ps(zeros(), v); }
// v where h > 0, else zero: the backward of a ReLU whose result is h. `Not less or equal` lets v through where h is
// NaN.
LIIF_AVX2 inline Vector where_positive(Vector h, Vector v) {
    return _mm256_and_ps(_mm256_cmp_ps(h, zeros(), _CMP_NLE_UQ), v);
}

// The pointer p, but not before v is known: else Clang brings a step's inputs into registers all at once, and spills
// sums.
LIIF_AVX2 inline const char* after([[maybe_unused]] Vector v, const char* p) {
#if defined(__clang__)
    asm("" : "+r"(p) : "x"(v));
#endif
    return p;
}

LIIF_AVX2 inline Bits no_bits() { return _mm256_setzero_si256(); }
LIIF_AVX2 inline Bits spread_bits(int32_t x) { return _mm256_set1_epi32(x); }
LIIF_AVX2 inline Bits load_bits(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
LIIF_AVX2 inline void store_bits(void* p, Bits v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
LIIF_AVX2 inline Bits either(Bits a, Bits b) { return _mm256_or_si256(a, b); }
LIIF_AVX2 inline Bits add_bits(Bits a, Bits b) { return _mm256_add_epi32(a, b); }
LIIF_AVX2 inline Bits mul_bits(Bits a, Bits b) { return _mm256_mullo_epi32(a, b); }
// 0, 1, 2, ...
LIIF_AVX2 inline Bits lane_numbers() { return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7); }

// The first `left` lanes.
inline Mask first_lanes(int64_t left) { return left >= kLanes ? 0xFF : (1u << left) - 1; }
// The lanes that are not zero.
LIIF_AVX2 inline Mask not_zero(Bits bits) {
    const __m256i zero = _mm256_cmpeq_epi32(bits, _mm256_setzero_si256());
    return ~static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(zero))) & 0xFF;
}
// The floats that are neither 0 nor -0.
LIIF_AVX2 inline Mask nonzero_floats(Bits bits) { return not_zero(_mm256_slli_epi32(bits, 1)); }

// For each mask, the numbers of its lanes one after the other; behind them zeros.
constexpr std::array<std::array<uint8_t, kLanes>, 256> order_lanes() {
    std::array<std::array<uint8_t, kLanes>, 256> orders{};
    for (size_t mask = 0; mask < orders.size(); ++mask) {
        size_t count = 0;
        for (uint8_t lane = 0; lane < kLanes; ++lane) {
            if (mask >> lane & 1) {
                orders[mask][count++] = lane;
            }
        }
    }
    return orders;
}
alignas(64) inline constexpr auto kOrders = order_lanes();

// The permutation (_mm256_permutevar8x32) that brings a mask's lanes to the front.
LIIF_AVX2 inline __m256i front_order(Mask mask) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(kOrders[mask].data())));
}
// A mask's lanes at the front; what stands behind them is of no use.
LIIF_AVX2 inline Bits to_front(Mask mask, Bits values) {
    return _mm256_permutevar8x32_epi32(values, front_order(mask));
}

// Where each lane of a mask stands when they are at the front; of other lanes, 128.
constexpr std::array<std::array<uint8_t, kLanes>, 256> place_lanes() {
    std::array<std::array<uint8_t, kLanes>, 256> places{};
    for (size_t mask = 0; mask < places.size(); ++mask) {
        uint8_t count = 0;
        for (size_t lane = 0; lane < kLanes; ++lane) {
            places[mask][lane] = mask >> lane & 1 ? count++ : uint8_t{128};
        }
    }
    return places;
}
alignas(64) inline constexpr auto kPlaces = place_lanes();

// Values from the front back to a mask's lanes, zero in the others.
LIIF_AVX2 inline Bits from_front(Mask mask, Bits values) {
    const __m128i places = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(kPlaces[mask].data()));
    const __m256i lanes = _mm256_cvtepi8_epi32(places);
    return _mm256_andnot_si256(_mm256_srai_epi32(lanes, 31), _mm256_permutevar8x32_epi32(values, lanes));
}

}  // namespace liif::avx2
#endif
