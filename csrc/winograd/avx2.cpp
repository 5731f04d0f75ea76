// Winograd's transforms and products for AVX2.
#include "winograd/winograd.h"

#if defined(__x86_64__)
#include <algorithm>
#include <cstring>

#include "simd/avx2.h"
#include "simd/dispatch.h"

#define LIIF_TARGET LIIF_AVX2

namespace liif {
namespace {

using namespace avx2;

// Six rows by two vectors keep 12 sums, two weights and one input in the 16 registers.
constexpr int kRows = 6, kColumns = 2;

#include "winograd/products.inc.h"
#include "winograd/transforms.inc.h"

}  // namespace

const Transforms kTransformsAvx2 = kOwnTransforms;

}  // namespace liif
#endif
