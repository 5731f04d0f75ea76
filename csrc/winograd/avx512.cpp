// Winograd's transforms for AVX-512.
#include "winograd/winograd.h"

#if defined(__x86_64__)
#include "simd/avx512.h"

#define LIIF_TARGET LIIF_AVX512

namespace liif {
namespace {

using namespace avx512;

#include "winograd/transforms.inc.h"

}  // namespace

const Transforms kTransformsAvx512 = kOwnTransforms;

}  // namespace liif
#endif
