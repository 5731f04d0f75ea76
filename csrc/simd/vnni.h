// What the fixed-point kernels for AVX-512 VNNI share.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>

#define LIIF_VNNI __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))

namespace liif {

// sum + the two products of 16-bit words in each 32-bit lane. Not the intrinsic: around it GCC 12 copies and spills the
// sums in every step.
LIIF_VNNI inline __m512i dot_add(__m512i sum, __m512i a, __m512i b) {
    asm("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
}

}  // namespace liif
#endif
