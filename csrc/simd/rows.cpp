#include "simd/rows.h"

#include <cstddef>
#include <cstring>

#include "cpu.h"
#include "layers/layer.h"
#include "simd/avx2.h"
#include "simd/avx512.h"

namespace liif {
namespace {

// Written so that NaN stays NaN.
inline float relu(float x) { return x < 0 ? 0 : x; }

// For sums that stay in registers while rows pass by.
using Sums = float __attribute__((vector_size(kVector * sizeof(float))));

#if defined(__x86_64__)
namespace with_avx512 {
#define LIIF_TARGET LIIF_AVX512
#include "simd/rows.inc.h"
#undef LIIF_TARGET
}  // namespace with_avx512

namespace with_avx2 {
#define LIIF_TARGET LIIF_AVX2
#include "simd/rows.inc.h"
#undef LIIF_TARGET
}  // namespace with_avx2
#endif

namespace with_any {
#define LIIF_TARGET
#include "simd/rows.inc.h"
#undef LIIF_TARGET
}  // namespace with_any

const RowLoops& best_loops() {
#if defined(__x86_64__)
    if (has_avx512()) {
        return with_avx512::kLoops;
    }
    if (has_avx2()) {
        return with_avx2::kLoops;
    }
#endif
    return with_any::kLoops;
}

}  // namespace

const RowLoops& loops = best_loops();

}  // namespace liif
