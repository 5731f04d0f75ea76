// Winograd's transforms for AVX2.
#include "winograd/winograd.h"

#if defined(__x86_64__)
#include "simd/avx2.h"

#define LIIF_TARGET LIIF_AVX2

namespace liif {
namespace {

using namespace avx2;

#include "winograd/transforms.inc.h"

}  // namespace

const Transforms kTransformsAvx2 = kOwnTransforms;

}  // namespace liif
#endif
