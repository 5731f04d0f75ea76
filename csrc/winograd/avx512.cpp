// Winograd's transforms and products for AVX-512.
#include "winograd/winograd.h"

#if defined(__x86_64__)
#include <algorithm>
#include <cstring>

#include "simd/avx512.h"
#include "simd/dispatch.h"

#define LIIF_TARGET LIIF_AVX512

namespace liif {
namespace {

using namespace avx512;

// Six rows by four vectors keep 24 sums, four weights and one input in the 32 registers.
constexpr int kRows = 6, kColumns = 4;

#include "winograd/products.inc.h"
#include "winograd/transforms.inc.h"

}  // namespace

const Transforms kTransformsAvx512 = kOwnTransforms;

}  // namespace liif
#endif
