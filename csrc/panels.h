// How the AVX-512 layers cut their weights: panels of columns, each with all inputs.
#pragma once

#include <cstdint>
#include <vector>

#include "layer.h"

namespace liif {

// Vectors of columns in a panel at most. Eight rows by three vectors keep 24 sums, three weights and one input in the
// 32 registers; a step does 24 multiply-adds for 11 loads.
constexpr int kPanel = 3;

struct Panel {
    int64_t first;    // column
    int64_t vectors;  // 1 to kPanel
};

// Panels that cover padded(out) columns, as even as they can be: a panel of one vector keeps the processor half busy.
inline std::vector<Panel> split_columns(int64_t out) {
    const int64_t vectors = padded(out) / kVector, count = (vectors + kPanel - 1) / kPanel;
    std::vector<Panel> panels;
    for (int64_t p = 0, from = 0; p < count; ++p) {
        const int64_t end = vectors * (p + 1) / count;
        panels.push_back({from * kVector, end - from});
        from = end;
    }
    return panels;
}

}  // namespace liif
