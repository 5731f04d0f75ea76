// Not __builtin_cpu_supports: not every compiler's runtime library fills in what it reads.
#include "cpu.h"

#if defined(__x86_64__)
#include <cpuid.h>

#include <cstdint>
#endif

namespace liif {
namespace {

struct Features {
    bool avx2 = false, avx512 = false, vnni = false, bf16 = false;
};

#if defined(__x86_64__)
bool has_bits(uint64_t value, uint64_t bits) { return (value & bits) == bits; }

// The parts of the registers that the system saves for each thread.
uint64_t saved_registers() {
    uint32_t low, high;
    asm("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return uint64_t{high} << 32 | low;
}

Features find() {
    Features found;
    uint32_t a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !has_bits(c, bit_OSXSAVE | bit_AVX | bit_FMA | bit_POPCNT)) {
        return found;
    }
    constexpr uint64_t kYmm = 0x6, kZmm = 0xE6;
    const uint64_t saved = saved_registers();
    if (!has_bits(saved, kYmm) || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
        return found;
    }
    found.avx2 = has_bits(b, bit_AVX2);
    found.avx512 =
        found.avx2 && has_bits(saved, kZmm) && has_bits(b, bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL);
    found.vnni = found.avx512 && has_bits(c, bit_AVX512VNNI);
    const bool more = a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d);
    constexpr uint32_t kAvx512Bf16 = 1u << 5;
    found.bf16 = more && found.avx512 && has_bits(a, kAvx512Bf16);
    return found;
}
#else
Features find() { return {}; }
#endif

const Features& features() {
    static const Features found = find();
    return found;
}

}  // namespace

bool has_avx2() { return features().avx2; }
bool has_avx512() { return features().avx512; }
bool has_vnni() { return features().vnni; }
bool has_bf16() { return features().bf16; }

}  // namespace liif
