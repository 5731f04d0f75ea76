// How the own layers cut their weights: panels of columns, each with all inputs.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "buffer.h"
#include "layers/layer.h"
#include "simd/rows.h"

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

// Bias of a layer, zero where there is none and up to its padded width.
inline Buffer<float> pad_bias(const Linear& linear) {
    Buffer<float> bias(static_cast<size_t>(padded(linear.out)));
    std::fill_n(bias.get(), padded(linear.out), 0.0f);
    if (linear.bias) {
        std::copy_n(linear.bias, linear.out, bias.get());
    }
    return bias;
}

// The layer's weights in panels, each [in, row], zero where there is no column.
inline Buffer<float> pack_panels(const Linear& linear, const std::vector<Panel>& panels, int64_t row, int64_t lanes) {
    const size_t size = static_cast<size_t>(row * linear.in);
    Buffer<float> packed(panels.size() * size);
    std::fill_n(packed.get(), panels.size() * size, 0.0f);
    for (size_t p = 0; p < panels.size(); ++p) {
        const int64_t first = panels[p].first, end = std::min(first + panels[p].vectors * lanes, linear.out);
        for (int64_t n = first; n < end; ++n) {
            for (int64_t k = 0; k < linear.in; ++k) {
                packed[p * size + static_cast<size_t>(k * row + n - first)] = linear.weight[n * linear.in + k];
            }
        }
    }
    return packed;
}

// weight [out, in] += sum, which has panels of columns, each [out, vectors * lanes].
inline void collect_panels(const float* sum, const std::vector<Panel>& panels, int64_t in, int64_t out, int64_t lanes,
                           float* weight) {
    for (const Panel& panel : panels) {
        const int64_t width = panel.vectors * lanes, inside = std::min(width, in - panel.first);
        for (int64_t n = 0; n < out; ++n) {
            loops.add_row(sum + panel.first * out + n * width, 1.0f, inside, weight + n * in + panel.first);
        }
    }
}

}  // namespace liif
