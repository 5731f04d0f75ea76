// How the own layers cut their weights: panels of columns, each with all inputs.
#pragma once

#include <cstdint>
#include <vector>

#include "layer.h"

namespace liif {

struct Panel {
    int64_t first;    // column
    int64_t vectors;  // at least 1
};

// Panels of at most `most` vectors of `lanes` columns that cover padded(out) columns, as even as they can be: a panel
// of one vector keeps the processor half busy.
inline std::vector<Panel> split_columns(int64_t out, int64_t most, int64_t lanes = kVector) {
    const int64_t vectors = padded(out) / lanes, count = (vectors + most - 1) / most;
    std::vector<Panel> panels;
    for (int64_t p = 0, from = 0; p < count; ++p) {
        const int64_t end = vectors * (p + 1) / count;
        panels.push_back({from * lanes, end - from});
        from = end;
    }
    return panels;
}

}  // namespace liif
