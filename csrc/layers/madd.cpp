// Fixed-point layers for AVX2: vpmaddwd multiplies pairs of 16-bit words and adds them up in 32 bits, twice the
// multiplications of float32 in an instruction, at the price of an addition.
#include "layers/layer.h"

#if defined(__x86_64__)
#include <algorithm>
#include <array>
#include <cstring>

#include "layers/fixed_point_layer.h"
#include "simd/avx2.h"
#include "simd/dispatch.h"

namespace liif {
namespace {

using namespace avx2;

// Six rows by two vectors keep 12 sums, two weights, one input and one product in the 16 registers.
constexpr int kRows = 6;
constexpr int kPair = 2;

// 16-bit words of a stored row of a panel: one vector.
constexpr int64_t kRow = kPair * kLanes;
static_assert(kRow == kVector);

LIIF_AVX2 inline uint32_t largest_lane(__m256i x) {
    __m128i half = _mm_max_epu32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    half = _mm_max_epu32(half, _mm_shuffle_epi32(half, 0x4E));
    half = _mm_max_epu32(half, _mm_shuffle_epi32(half, 0xB1));
    return static_cast<uint32_t>(_mm_cvtsi128_si32(half));
}

template <int R>
LIIF_AVX2 void quantise(const float* in, int64_t stride, int64_t width, float input_max, int64_t word_stride,
                        Quantised& out) {
    __m256i largest[R];
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
        largest[r] = _mm256_setzero_si256();
    }
    const __m256i lane = lane_numbers(), next = _mm256_set1_epi32(kLanes * kRow);
    __m256i start = _mm256_mullo_epi32(lane, _mm256_set1_epi32(kRow));
    uint8_t* alive = reinterpret_cast<uint8_t*>(out.words + R * word_stride);
    int count = 0;
    for (int64_t k = 0; k < width; k += kLanes) {
        const __m256i inside = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(width - k)), lane);
        __m256i any = _mm256_setzero_si256();
#pragma GCC unroll 6
        for (int r = 0; r < R; ++r) {
            // Bits without the sign compare as absolute values do, and a NaN is larger than all.
            const __m256i bits = _mm256_and_si256(_mm256_slli_epi32(load_bits(in + r * stride + k), 1), inside);
            largest[r] = _mm256_max_epu32(largest[r], bits);
            any = _mm256_or_si256(any, bits);
        }
        const unsigned mask = not_zero(any);
        alive[k / kLanes] = static_cast<uint8_t>(mask);
        store_bits(out.weights + count, to_front(mask, start));
        count += __builtin_popcount(mask);
        start = _mm256_add_epi32(start, next);
    }
    __m256 factor[R];
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
        const uint32_t bits = largest_lane(largest[r]) >> 1;
        float top;
        std::memcpy(&top, &bits, sizeof(top));
        out.scales[r] = top / input_max;
        // A smaller value would have an infinite factor; NaN has none either.
        factor[r] = _mm256_set1_ps(top > 1e-33f ? input_max / top : 0.0f);
    }
    int16_t* to = out.words;
    for (int64_t k = 0; k < width; k += kLanes) {
        const unsigned mask = alive[k / kLanes];
        const __m256i order = front_order(mask);
#pragma GCC unroll 6
        for (int r = 0; r < R; ++r) {
            const __m256i all = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(in + r * stride + k), factor[r]));
            const __m256i found = _mm256_permutevar8x32_epi32(all, order);
            _mm_storeu_si128(reinterpret_cast<__m128i*>(to + r * word_stride),
                             _mm_packs_epi32(_mm256_castsi256_si128(found), _mm256_extracti128_si256(found, 1)));
        }
        to += __builtin_popcount(mask);
    }
    for (int r = 0; r < R; ++r) {
        out.words[r * word_stride + count] = 0;
    }
    out.weights[count] = 0;
    out.count = count + count % 2;
}

// Two 16-bit words.
using Pair __attribute__((may_alias)) = int32_t;

// sums + the two products of a pair with each 32-bit lane of the weights. Not the intrinsics: around them GCC 12 brings
// all pairs of a step into registers at once, and spills the sums.
LIIF_AVX2 inline void dot_add(__m256i* sums, const Pair* pair, const __m256i* weights) {
    __m256i value, product;
    asm("vpbroadcastd %[pair], %[value]\n\t"
        "vpmaddwd %[first], %[value], %[product]\n\t"
        "vpmaddwd %[second], %[value], %[value]\n\t"
        "vpaddd %[product], %[low], %[low]\n\t"
        "vpaddd %[value], %[high], %[high]"
        : [low] "+x"(sums[0]), [high] "+x"(sums[1]), [value] "=&x"(value), [product] "=&x"(product)
        : [pair] "m"(*pair), [first] "x"(weights[0]), [second] "x"(weights[1]));
}

template <int R>
LIIF_AVX2 void multiply(const Quantised& in, int64_t word_stride, const int16_t* panel, const float* column_scale,
                        const float* bias, const float* active, float* out, int64_t out_stride) {
    __m256i sum[R][kPair];
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
        sum[r][0] = sum[r][1] = _mm256_setzero_si256();
    }
    const auto offsets = row_offsets<kRows>(word_stride * static_cast<int64_t>(sizeof(int16_t)));
    const int32_t* weights = in.weights;
    for (int i = 0, count = in.count; i < count; i += 2) {
        const char* words = reinterpret_cast<const char*>(in.words + i);
        asm("" : "+r"(words));
        const __m256i a = _mm256_load_si256(reinterpret_cast<const __m256i*>(panel + weights[i]));
        const __m256i b = _mm256_load_si256(reinterpret_cast<const __m256i*>(panel + weights[i + 1]));
        const __m256i weight[kPair] = {_mm256_unpacklo_epi16(a, b), _mm256_unpackhi_epi16(a, b)};
#pragma GCC unroll 6
        for (int r = 0; r < R; ++r) {
            dot_add(sum[r], reinterpret_cast<const Pair*>(words + offsets[r]), weight);
        }
    }
#pragma GCC unroll 2
    for (int v = 0; v < kPair; ++v) {
        const __m256 scale = _mm256_load_ps(column_scale + kLanes * v), offset = _mm256_load_ps(bias + kLanes * v);
#pragma GCC unroll 6
        for (int r = 0; r < R; ++r) {
            const __m256 row = _mm256_mul_ps(_mm256_set1_ps(in.scales[r]), scale);
            const __m256 value = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[r][v]), row, offset);
            const int64_t at = r * out_stride + kLanes * v;
            store(out + at, active ? where_positive(load(active + at), value) : relu(value));
        }
    }
}

struct Kernel {
    static constexpr int64_t kRows = liif::kRows, kPanel = 1, kLanes = avx2::kLanes, kRow = liif::kRow;
    static constexpr size_t kTogether = 2;
    static constexpr auto kQuantise = table<liif::kRows>([](auto r) { return &quantise<r>; });
    static constexpr auto kMultiply = table_of_rows<liif::kRows, 1>([](auto r, auto) { return &multiply<r>; });
};

}  // namespace

std::unique_ptr<Layer> make_madd_layer(const Linear& linear) {
    return std::make_unique<FixedPointLayer<Kernel>>(linear);
}

}  // namespace liif
#endif
