// Winograd's turns for AVX2.
#include "winograd/winograd.h"

#if defined(__x86_64__)
#include "simd/avx2.h"

#define LIIF_TARGET LIIF_AVX2

namespace liif {
namespace {

using Vector = __m256;
constexpr int64_t kWide = kLanes;

LIIF_TARGET inline Vector zeros() { return _mm256_setzero_ps(); }
LIIF_TARGET inline Vector spread(float x) { return _mm256_set1_ps(x); }
LIIF_TARGET inline Vector load(const float* p) { return _mm256_loadu_ps(p); }
LIIF_TARGET inline void store(float* p, Vector v) { _mm256_storeu_ps(p, v); }
LIIF_TARGET inline Vector add(Vector a, Vector b) { return _mm256_add_ps(a, b); }
LIIF_TARGET inline Vector sub(Vector a, Vector b) { return _mm256_sub_ps(a, b); }
LIIF_TARGET inline Vector mul(Vector a, Vector b) { return _mm256_mul_ps(a, b); }
LIIF_TARGET inline Vector fused(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
LIIF_TARGET inline Vector larger(Vector a, Vector b) { return _mm256_max_ps(a, b); }
LIIF_TARGET inline Vector keep(Vector own, Vector v) {
    return _mm256_and_ps(_mm256_cmp_ps(own, zeros(), _CMP_NLE_UQ), v);
}

#include "winograd/transforms.inc.h"

}  // namespace

const Turns kTurnsAvx2 = kOwnTurns;

}  // namespace liif
#endif
