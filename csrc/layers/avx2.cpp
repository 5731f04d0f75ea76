// float32 layers for AVX2. Blocks of four rows share more zeros than larger ones.
#include "layers/layer.h"

#if defined(__x86_64__)
#include <algorithm>
#include <array>
#include <cstring>

#include "buffer.h"
#include "layers/panels.h"
#include "simd/avx2.h"
#include "simd/dispatch.h"

#define LIIF_TARGET LIIF_AVX2

namespace liif {
namespace {

using namespace avx2;

// Four rows by three vectors keep 12 sums, three weights and one input in the 16 registers.
constexpr int kRows = 4, kPanel = 3;
constexpr int kAhead = 0;
// All of a tile: a panel stays in the first-level cache.
constexpr int kBlocksTogether = kTileRows;

#include "layers/skipping.inc.h"

}  // namespace

std::unique_ptr<Layer> make_avx2_layer(const Linear& linear) { return std::make_unique<SkippingLayer>(linear); }

}  // namespace liif
#endif
