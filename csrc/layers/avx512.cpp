// float32 layers for AVX-512.
#include "layers/layer.h"

#if defined(__x86_64__)
#include <algorithm>
#include <array>
#include <cstring>

#include "buffer.h"
#include "layers/panels.h"
#include "simd/avx512.h"
#include "simd/dispatch.h"

#define LIIF_TARGET LIIF_AVX512

namespace liif {
namespace {

using namespace avx512;

// Eight rows by three vectors keep 24 sums, three weights and one input in the 32 registers; a step does 24
// multiply-adds for 11 loads.
constexpr int kRows = 8, kPanel = 3;
constexpr int kAhead = 4;
constexpr int kBlocksTogether = 1;

#include "layers/skipping.inc.h"

}  // namespace

std::unique_ptr<Layer> make_avx512_layer(const Linear& linear) { return std::make_unique<SkippingLayer>(linear); }

}  // namespace liif
#endif
