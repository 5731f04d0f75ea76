// Which instruction sets this processor and its system have; the targets of the same names stand in simd/.
#pragma once

namespace liif {

bool has_avx2();
bool has_avx512();
bool has_vnni();
// Whether this processor multiplies bfloat16, so that PyTorch's own convolutions of it are fast.
bool has_bf16();

}  // namespace liif
