// Which arithmetic this processor and this libtorch can run.
#include <algorithm>
#include <stdexcept>

#include "layers/layer.h"
#include "weight_gradients/weight_gradient.h"

namespace liif {
namespace {

#if defined(__x86_64__)
bool has_avx512() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool has_vnni() { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }
#else
bool has_avx512() { return false; }
bool has_avx2() { return false; }
bool has_vnni() { return false; }
#endif

}  // namespace

#if defined(__x86_64__)
bool has_bf16() { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }
#else
bool has_bf16() { return false; }
#endif

std::vector<std::string> arithmetics(const std::string& precision) {
    // What runs, but is no choice for any precision here, is kept so that its results can be tested on more processors.
    const bool any = precision == "any";
    std::vector<std::string> half, full;
    if (has_vnni()) {
        half.push_back("vnni-int16");
    }
    // float32 in vectors of twice the width does as much.
    if (has_avx2() && (any || !has_avx512())) {
        half.push_back("avx2-int16");
    }
    if (has_avx512()) {
        full.push_back("avx512");
    }
    if (has_avx2()) {
        full.push_back("avx2");
    }
    if (brgemm_works()) {
        full.push_back("brgemm");
    }
    full.push_back("mm");
    if (any) {
        full.insert(full.end(), half.begin(), half.end());
    } else if (precision == "bf16") {
        half.insert(half.end(), full.begin(), full.end());
        return half;
    }
    return full;
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
