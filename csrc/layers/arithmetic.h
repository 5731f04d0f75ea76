// The arithmetics that a decoder's hidden layers can be computed with.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "layers/layer.h"
#include "weight_gradients/weight_gradient.h"

namespace liif {

enum class Arithmetic {
    kAvx512,     // "avx512": float32, own kernel, skips units that the ReLU has zeroed
    kAvx2,       // "avx2": the same for AVX2
    kBrgemm,     // "brgemm": float32, oneDNN's batch-reduce GEMM through libtorch
    kMm,         // "mm": float32, at::mm
    kVnniInt16,  // "vnni-int16": 16-bit fixed point with a scale for each row and column, skips zeroed units
    kAvx2Int16,  // "avx2-int16": the same for AVX2
};

// What this processor and this libtorch can run for a precision ("fp32" or "bf16"), best first; "any" lists all that
// runs.
std::vector<std::string> arithmetics(const std::string& precision);

// The arithmetic of a name, or nothing where it cannot run.
std::optional<Arithmetic> find_arithmetic(const std::string& name);

std::unique_ptr<Layer> make_layer(Arithmetic arithmetic, const Linear& linear);

std::unique_ptr<WeightGradient> make_weight_gradient(Arithmetic arithmetic, int64_t in, int64_t out);

}  // namespace liif
