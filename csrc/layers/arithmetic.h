// The arithmetics that a decoder's hidden layers can be computed with.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "layers/layer.h"
#include "weight_gradients/weight_gradient.h"

namespace liif {

enum class Arithmetic {
    kAvx512,     // "avx512": float32, skips units that the ReLU has zeroed
    kAvx2,       // "avx2": the same for AVX2
    kVnniInt16,  // "vnni-int16": 16-bit fixed point with a scale for each row and column, skips zeroed units
    kAvx2Int16,  // "avx2-int16": the same for AVX2
};

// The names of what this processor can run for a precision ("fp32" or "bf16"), best first, with commas between them;
// "any" lists all that runs.
std::string arithmetics(const std::string& precision);

// The arithmetic of a name, or nothing where it cannot run.
std::optional<Arithmetic> find_arithmetic(const std::string& name);

// The best that runs for float32; nothing where none does.
std::optional<Arithmetic> best_arithmetic();

std::unique_ptr<Layer> make_layer(Arithmetic arithmetic, const Linear& linear);

std::unique_ptr<WeightGradient> make_weight_gradient(Arithmetic arithmetic, int64_t in, int64_t out);

}  // namespace liif
