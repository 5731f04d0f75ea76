// What the kernels for AVX2 share.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>

#include <array>
#include <cstddef>
#include <cstdint>

#define LIIF_AVX2 __attribute__((target("avx2,fma,popcnt")))

namespace liif {

constexpr int kLanes = 8;  // 32-bit values of a vector

// For each mask of lanes, the numbers of its lanes one after the other; behind them zeros.
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

// The permutation (_mm256_permutevar8x32) that brings a mask's lanes to the front: AVX-512's compress.
LIIF_AVX2 inline __m256i to_front(unsigned mask) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(kOrders[mask].data())));
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

// Values from the front back to a mask's lanes, zero in the others: AVX-512's expand.
LIIF_AVX2 inline __m256i from_front(unsigned mask, __m256i values) {
    const __m128i places = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(kPlaces[mask].data()));
    const __m256i lanes = _mm256_cvtepi8_epi32(places);
    return _mm256_andnot_si256(_mm256_srai_epi32(lanes, 31), _mm256_permutevar8x32_epi32(values, lanes));
}

// A bit for each lane that is not zero; of floats' bits, those without the sign.
LIIF_AVX2 inline unsigned not_zero(__m256i bits) {
    const __m256i zero = _mm256_cmpeq_epi32(bits, _mm256_setzero_si256());
    return ~static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(zero))) & 0xFF;
}

// A bit for each of the first `left` lanes.
inline unsigned first_lanes(int64_t left) { return left >= kLanes ? 0xFF : (1u << left) - 1; }

}  // namespace liif
#endif
