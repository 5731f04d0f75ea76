// Which instruction sets this processor has; the targets of the same names stand in simd/.
#pragma once

namespace liif {

#if defined(__x86_64__)
inline bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
inline bool has_avx512() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
inline bool has_vnni() { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }
// Whether this processor multiplies bfloat16, so that PyTorch's own convolutions of it are fast.
inline bool has_bf16() { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }
#else
inline bool has_avx2() { return false; }
inline bool has_avx512() { return false; }
inline bool has_vnni() { return false; }
inline bool has_bf16() { return false; }
#endif

}  // namespace liif
