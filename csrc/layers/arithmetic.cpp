#include "layers/arithmetic.h"

#include "cpu.h"

namespace liif {
namespace {

struct Entry {
    const char* name;
    Arithmetic arithmetic;
    bool half;            // as accurate as bfloat16, not as float32
    bool (*runs)();       // on this processor
    bool (*is_choice)();  // null for always; what is none is kept so that its results can be tested on more processors
    std::unique_ptr<Layer> (*layer)(const Linear&);
    std::unique_ptr<WeightGradient> (*weight_gradient)(int64_t in, int64_t out);
};

// Best first.
constexpr Entry kTable[] = {
#if defined(__x86_64__)
    {"vnni-int16", Arithmetic::kVnniInt16, true, has_vnni, nullptr, make_vnni_layer, make_vnni_weight_gradient},
    // Where AVX-512 is, float32 in vectors of twice the width does as much. Its weight gradients would be no faster in
    // fixed point: nothing would be skipped there.
    {"avx2-int16", Arithmetic::kAvx2Int16, true, has_avx2, [] { return !has_avx512(); }, make_madd_layer,
     make_avx2_weight_gradient},
    {"avx512", Arithmetic::kAvx512, false, has_avx512, nullptr, make_avx512_layer, make_avx512_weight_gradient},
    {"avx2", Arithmetic::kAvx2, false, has_avx2, nullptr, make_avx2_layer, make_avx2_weight_gradient},
#endif
};

const Entry& entry(Arithmetic arithmetic) {
    size_t i = 0;
    while (kTable[i].arithmetic != arithmetic) {
        ++i;
    }
    return kTable[i];
}

}  // namespace

std::string arithmetics(const std::string& precision) {
    const bool any = precision == "any", half = any || precision == "bf16";
    std::string names;
    for (const Entry& e : kTable) {
        if (e.runs() && (half || !e.half) && (any || !e.is_choice || e.is_choice())) {
            if (!names.empty()) {
                names += ',';
            }
            names += e.name;
        }
    }
    return names;
}

std::optional<Arithmetic> find_arithmetic(const std::string& name) {
    for (const Entry& e : kTable) {
        if (name == e.name && e.runs()) {
            return e.arithmetic;
        }
    }
    return std::nullopt;
}

std::optional<Arithmetic> best_arithmetic() {
    const std::string names = arithmetics("fp32");
    return find_arithmetic(names.substr(0, names.find(',')));
}

std::unique_ptr<Layer> make_layer(Arithmetic arithmetic, const Linear& linear) {
    return entry(arithmetic).layer(linear);
}

std::unique_ptr<WeightGradient> make_weight_gradient(Arithmetic arithmetic, int64_t in, int64_t out) {
    return entry(arithmetic).weight_gradient(in, out);
}

}  // namespace liif
