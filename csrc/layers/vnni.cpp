// Fixed-point layers for AVX-512 VNNI, at twice the multiply-add rate of float32.
#include "layers/layer.h"

#if defined(__x86_64__)
#include <algorithm>
#include <array>
#include <cstring>

#include "layers/fixed_point_layer.h"
#include "simd/avx512.h"
#include "simd/dispatch.h"

namespace liif {
namespace {

using namespace avx512;

// Six rows by four vectors keep 24 sums, four weights and one input in the 32 registers: fewer instructions for each
// multiply-add than eight by three, which matters where a core is shared, and fewer inputs are not zero in six rows.
constexpr int kRows = 6;
constexpr int kPanel = 4;

// 16-bit words of a stored row of a panel: pairs of vectors share 32 words, the last one has 32 for itself.
constexpr int64_t kRow = (kPanel + 1) / 2 * 32;

LIIF_VNNI inline __m256i larger_of_pairs(__m256i a, __m256i b) {
    return _mm256_max_epu32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
}
LIIF_VNNI inline __m256i larger_of_halves(__m256i a, __m256i b) {
    return _mm256_max_epu32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
}

// The largest lane of vector r in lane r, all eight at once: one by one they would take twice the instructions.
template <int R>
LIIF_VNNI inline __m256i largest_lanes(const __m512i* vectors) {
    __m256i half[8];
#pragma GCC unroll 8
    for (int r = 0; r < 8; ++r) {
        const __m512i whole = vectors[std::min(r, R - 1)];
        half[r] = _mm256_max_epu32(_mm512_castsi512_si256(whole), _mm512_extracti64x4_epi64(whole, 1));
    }
    const __m256i low = larger_of_halves(larger_of_pairs(half[0], half[1]), larger_of_pairs(half[2], half[3]));
    const __m256i high = larger_of_halves(larger_of_pairs(half[4], half[5]), larger_of_pairs(half[6], half[7]));
    return _mm256_max_epu32(_mm256_permute2x128_si256(low, high, 0x20), _mm256_permute2x128_si256(low, high, 0x31));
}

template <int R>
LIIF_VNNI void quantise(const float* in, int64_t stride, int64_t width, float input_max, int64_t word_stride,
                        Quantised& out) {
    __m512i largest[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
        largest[r] = _mm512_setzero_si512();
    }
    __m512i start = mul_bits(lane_numbers(), spread_bits(kRow));
    const __m512i next = _mm512_set1_epi32(16 * kRow);
    __mmask16* alive = reinterpret_cast<__mmask16*>(out.words + R * word_stride);
    int count = 0;
    for (int64_t k = 0; k < width; k += 16) {
        const __mmask16 inside = first_lanes(width - k);
        __m512i bits[R];
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            // Bits without the sign compare as absolute values do, and a NaN is larger than all.
            bits[r] = _mm512_slli_epi32(_mm512_loadu_si512(in + r * stride + k), 1);
            if (inside != 0xFFFF) {
                bits[r] = _mm512_maskz_mov_epi32(inside, bits[r]);
            }
            largest[r] = _mm512_max_epu32(largest[r], bits[r]);
        }
        __m512i any = bits[0];
#pragma GCC unroll 8
        for (int r = 1; r < R; r += 2) {
            any = _mm512_ternarylogic_epi32(any, bits[r], bits[std::min(r + 1, R - 1)], 0xFE);
        }
        alive[k / 16] = not_zero(any);
        store_bits(out.weights + count, to_front(alive[k / 16], start));
        count += __builtin_popcount(alive[k / 16]);
        start = _mm512_add_epi32(start, next);
    }
    alive[(width + 15) / 16] = 0;

    const __m256 tops = _mm256_castsi256_ps(_mm256_srli_epi32(largest_lanes<R>(largest), 1));
    const __m256 limit = _mm256_set1_ps(input_max);
    alignas(32) float values[8];
    _mm256_store_ps(values, _mm256_div_ps(tops, limit));
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
        out.scales[r] = values[r];
    }
    // A smaller value would have an infinite factor.
    const __mmask8 some = _mm256_cmp_ps_mask(tops, _mm256_set1_ps(1e-33f), _CMP_GT_OQ);
    _mm256_store_ps(values, _mm256_maskz_div_ps(some, limit, tops));
    __m512 factor[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
        factor[r] = _mm512_set1_ps(values[r]);
    }
    // Added to a number below 2^22, this leaves it, rounded to an integer, in the low bits.
    const __m512 round = _mm512_set1_ps(12582912.0f);
    int16_t* to = out.words;
    const int32_t* list = out.weights;
    for (int64_t k = 0; k < width; k += 32) {
        // A list's entry is kRow times the input; of the inputs' low words, which are every other one of these vectors'
        // 64, those of the list are taken. (Bits above the sixth do not count.)
        static_assert(kRow == 64);
        const __m512i first_part = _mm512_srli_epi32(_mm512_loadu_si512(list), 5);
        const __m512i second_part = _mm512_srli_epi32(_mm512_loadu_si512(list + 16), 5);
        const __m512i which = _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi32_epi16(first_part)),
                                                 _mm512_cvtepi32_epi16(second_part), 1);
        const int64_t half = k + 16 < width ? 16 : 0;
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            const float* row = in + r * stride + k;
            const __m512 first = _mm512_fmadd_ps(_mm512_loadu_ps(row), factor[r], round);
            const __m512 second = _mm512_fmadd_ps(_mm512_loadu_ps(row + half), factor[r], round);
            _mm512_storeu_si512(to + r * word_stride, _mm512_permutex2var_epi16(_mm512_castps_si512(first), which,
                                                                                _mm512_castps_si512(second)));
        }
        const int found = __builtin_popcount(alive[k / 16]) + __builtin_popcount(alive[k / 16 + 1]);
        to += found;
        list += found;
    }
    for (int r = 0; r < R; ++r) {
        out.words[r * word_stride + count] = 0;
    }
    _mm512_storeu_si512(out.weights + count, _mm512_setzero_si512());
    out.count = count + count % 2;
}

template <int R, int V>
LIIF_VNNI void multiply(const Quantised& in, int64_t word_stride, const int16_t* panel, const float* column_scale,
                        const float* bias, const float* active, float* out, int64_t out_stride) {
    __m512i sum[R][V];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
            sum[r][v] = _mm512_setzero_si512();
        }
    }
    const auto offsets = row_offsets<kRows>(word_stride * static_cast<int64_t>(sizeof(int16_t)));
    const int32_t* weights = in.weights;
    for (int i = 0, count = in.count; i < count; i += 2) {
        const char* words = reinterpret_cast<const char*>(in.words + i);
        asm("" : "+r"(words));
        const int16_t *first = panel + weights[i], *second = panel + weights[i + 1];
        asm("" : "+r"(second));
        __m512i weight[V];
#pragma GCC unroll 2
        for (int v = 0; v < V; v += 2) {
            const __m512i a = _mm512_load_si512(first + kVector * v), b = _mm512_load_si512(second + kVector * v);
            weight[v] = _mm512_unpacklo_epi16(a, b);
            if (v + 1 < V) {
                weight[v + 1] = _mm512_unpackhi_epi16(a, b);
            }
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            int32_t pair;
            std::memcpy(&pair, words + offsets[r], sizeof(pair));
            const __m512i value = _mm512_set1_epi32(pair);
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) {
                sum[r][v] = dot_add(sum[r][v], value, weight[v]);
            }
        }
    }
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
        const __m512 scale = _mm512_load_ps(column_scale + kVector * v), offset = _mm512_load_ps(bias + kVector * v);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            const __m512 row = _mm512_mul_ps(_mm512_set1_ps(in.scales[r]), scale);
            const __m512 value = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r][v]), row, offset);
            const int64_t at = r * out_stride + kVector * v;
            store(out + at, active ? where_positive(load(active + at), value) : relu(value));
        }
    }
}

struct Kernel {
    static constexpr int64_t kRows = liif::kRows, kPanel = liif::kPanel, kLanes = avx512::kLanes, kRow = liif::kRow;
    static constexpr size_t kTogether = 1;
    static constexpr auto kQuantise = table<liif::kRows>([](auto r) { return &quantise<r>; });
    static constexpr auto kMultiply =
        table_of_rows<liif::kRows, liif::kPanel>([](auto r, auto v) { return &multiply<r, v>; });
};

}  // namespace

std::unique_ptr<Layer> make_vnni_layer(const Linear& linear) {
    return std::make_unique<FixedPointLayer<Kernel>>(linear);
}

}  // namespace liif
#endif
