// Winograd's turns for AVX-512.
#include "winograd/winograd.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define LIIF_TARGET __attribute__((target("avx512f")))

namespace liif {
namespace {

using Vector = __m512;
constexpr int64_t kWide = 16;

LIIF_TARGET inline Vector zeros() { return _mm512_setzero_ps(); }
LIIF_TARGET inline Vector spread(float x) { return _mm512_set1_ps(x); }
LIIF_TARGET inline Vector load(const float* p) { return _mm512_loadu_ps(p); }
LIIF_TARGET inline void store(float* p, Vector v) { _mm512_storeu_ps(p, v); }
LIIF_TARGET inline Vector add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
LIIF_TARGET inline Vector sub(Vector a, Vector b) { return _mm512_sub_ps(a, b); }
LIIF_TARGET inline Vector mul(Vector a, Vector b) { return _mm512_mul_ps(a, b); }
LIIF_TARGET inline Vector fused(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
LIIF_TARGET inline Vector larger(Vector a, Vector b) { return _mm512_max_ps(a, b); }
LIIF_TARGET inline Vector keep(Vector own, Vector v) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(own, zeros(), _CMP_NLE_UQ), v);
}

#include "winograd/transforms.inc.h"

}  // namespace

const Turns kTurnsAvx512 = kOwnTurns;

}  // namespace liif
#endif
