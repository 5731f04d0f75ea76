// Which arithmetic this processor and this libtorch can run.
#include <algorithm>
#include <stdexcept>

#include "layer.h"
#include "weight_gradient.h"

namespace liif {
namespace {

#if defined(__x86_64__)
bool has_avx512() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool has_vnni() { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }
// Without these instructions the bfloat16 kernels convert in every step and are slower than float32.
bool has_bf16() { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }
#else
bool has_avx512() { return false; }
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool has_vnni() { return false; }
bool has_bf16() { return false; }
#endif

}  // namespace

std::vector<std::string> arithmetics(const std::string& precision) {
    std::vector<std::string> half, found;
    if (has_bf16() && bf16_brgemm_works()) {
        half.push_back("brgemm-bf16");
    }
    if (has_vnni()) {
        half.push_back("vnni-int16");
    }
    if (has_avx2()) {
        half.push_back("avx2-int16");
    }
    if (precision == "bf16") {
        found = half;
    }
    if (has_avx512()) {
        found.push_back("avx512");
    }
    if (has_avx2()) {
        found.push_back("avx2");
    }
    if (brgemm_works()) {
        found.push_back("brgemm");
    }
    found.push_back("mm");
    if (precision == "any") {
        // Runs, but is no choice for any precision here; kept so that its results can be tested on more processors.
        if (!has_bf16() && bf16_brgemm_works()) {
            half.push_back("brgemm-bf16");
        }
        found.insert(found.end(), half.begin(), half.end());
    }
    return found;
}

std::unique_ptr<Layer> make_layer(const std::string& arithmetic, const Linear& linear) {
    const auto known = arithmetics("any");
    if (std::find(known.begin(), known.end(), arithmetic) == known.end()) {
        throw std::invalid_argument("unknown arithmetic here: " + arithmetic);
    }
#if defined(__x86_64__)
    if (arithmetic == "avx512") {
        return make_avx512_layer(linear);
    }
    if (arithmetic == "vnni-int16") {
        return make_vnni_layer(linear);
    }
    if (arithmetic == "avx2") {
        return make_avx2_layer(linear);
    }
    if (arithmetic == "avx2-int16") {
        return make_madd_layer(linear);
    }
#endif
    if (arithmetic == "brgemm") {
        return make_brgemm_layer(linear);
    }
    if (arithmetic == "brgemm-bf16") {
        return make_bf16_layer(linear);
    }
    return make_mm_layer(linear);
}

std::unique_ptr<WeightGradient> make_weight_gradient(const std::string& arithmetic, int64_t in, int64_t out) {
#if defined(__x86_64__)
    if (arithmetic == "avx512") {
        return make_avx512_weight_gradient(in, out);
    }
    if (arithmetic == "vnni-int16") {
        return make_vnni_weight_gradient(in, out);
    }
    // In fixed point it would be no faster: nothing would be skipped there.
    if (arithmetic == "avx2" || arithmetic == "avx2-int16") {
        return make_avx2_weight_gradient(in, out);
    }
#endif
    return make_mm_weight_gradient(in, out);
}

}  // namespace liif
