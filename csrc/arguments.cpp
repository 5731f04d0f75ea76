#include "arguments.h"

#include <algorithm>
#include <limits>

namespace liif {

void check_matrix(const at::Tensor& t, const char* name, int64_t rows, int64_t columns) {
    TORCH_CHECK(t.dim() == 2 && t.size(0) == rows && t.size(1) == columns, name, ": expected [", rows, ", ", columns,
                "], got ", t.sizes());
}

void check_float(const at::Tensor& t, const char* name) {
    TORCH_CHECK(t.device().is_cpu() && t.scalar_type() == at::kFloat, name, ": expected float32 on the CPU, got ",
                t.scalar_type(), " on ", t.device());
}

Arguments checked(const at::Tensor& projected, const at::Tensor& coord, const std::optional<at::Tensor>& cell,
                  const at::Tensor& rest, at::TensorList weights, at::TensorList biases, at::IntArrayRef window) {
    TORCH_CHECK(projected.dim() == 4 && projected.size(1) > 0 && projected.size(2) > 0 && projected.size(3) > 0,
                "projected: expected [B, H, W, N0] with H, W, N0 >= 1, got ", projected.sizes());
    const int64_t batch = projected.size(0), n0 = projected.size(3);
    TORCH_CHECK(coord.dim() == 3 && coord.size(0) == batch && coord.size(2) == 2, "coord: expected [", batch,
                ", Q, 2], got ", coord.sizes());
    TORCH_CHECK(coord.size(1) <= std::numeric_limits<int32_t>::max(), "coord: expected fewer than 2^31 queries, got ",
                coord.size(1));
    TORCH_CHECK(!cell || cell->sizes() == coord.sizes(), "cell: expected ", coord.sizes(), " as coord, got ",
                cell->sizes());
    check_matrix(rest, "rest", n0, cell ? 4 : 2);
    TORCH_CHECK(biases.size() == weights.size() + 1, "biases: expected one more than weights, got ", biases.size(),
                " and ", weights.size());
    TORCH_CHECK(window.size() == 4 && window[0] > 0 && window[1] > 0,
                "window: expected [H, W, top, left] with H, W >= 1, got ", window);
    TORCH_CHECK(window[2] >= 0 && window[3] >= 0 && window[2] + projected.size(1) <= window[0] &&
                    window[3] + projected.size(2) <= window[1],
                "window: expected a part of a ", window[0], " x ", window[1], " map, got ", projected.size(1), " x ",
                projected.size(2), " at (", window[2], ", ", window[3], ")");

    Arguments a{projected, coord, cell.value_or(at::Tensor()), rest, weights.vec(), biases.vec()};
    int64_t width = n0;
    for (size_t k = 0; k < a.biases.size(); ++k) {
        if (k > 0) {
            check_matrix(a.weights[k - 1], "weights", a.biases[k].numel(), width);
            check_float(a.weights[k - 1], "weights");
            a.weights[k - 1] = a.weights[k - 1].contiguous();
            width = a.weights[k - 1].size(0);
        }
        TORCH_CHECK(a.biases[k].dim() == 1 && a.biases[k].size(0) == width && width > 0, "biases: expected [", width,
                    "], got ", a.biases[k].sizes());
        check_float(a.biases[k], "biases");
        a.biases[k] = a.biases[k].contiguous();
    }
    for (auto [tensor, name] : {std::pair{&a.projected, "projected"}, {&a.coord, "coord"}, {&a.rest, "rest"}}) {
        check_float(*tensor, name);
        *tensor = tensor->contiguous();
    }
    if (cell) {
        check_float(a.cell, "cell");
        a.cell = a.cell.contiguous();
    }
    return a;
}

namespace {

Buffer<float> pack_rest(const at::Tensor& rest) {
    const int64_t n0 = rest.size(0), columns = rest.size(1);
    Buffer<float> packed(static_cast<size_t>(4 * n0));
    const float* from = rest.const_data_ptr<float>();
    for (int64_t column = 0; column < 4; ++column) {
        for (int64_t n = 0; n < n0; ++n) {
            packed[static_cast<size_t>(column * n0 + n)] = column < columns ? from[n * columns + column] : 0;
        }
    }
    return packed;
}

}  // namespace

Linear hidden_layer(const Arguments& a, size_t k) {
    const at::Tensor& weight = a.weights[k];
    return {weight.const_data_ptr<float>(), a.biases[k + 1].const_data_ptr<float>(), weight.size(1), weight.size(0)};
}

Arithmetic checked_arithmetic(const std::string& name) {
    const auto arithmetic = find_arithmetic(name);
    TORCH_CHECK(arithmetic, "arithmetic: expected one of ", at::ArrayRef<std::string>(arithmetics("any")), ", got ",
                name);
    return *arithmetic;
}

Decoder make_decoder(const Arguments& a, bool local_ensemble, at::IntArrayRef window, Arithmetic arithmetic) {
    const int64_t n0 = a.projected.size(3);
    const bool single = a.weights.empty();
    Decoder decoder{
        .projected = a.projected.const_data_ptr<float>(),
        .height = a.projected.size(1),
        .width = a.projected.size(2),
        .n0 = n0,
        .top = window[2],
        .left = window[3],
        .y = Axis(window[0], local_ensemble),
        .x = Axis(window[1], local_ensemble),
        .local_ensemble = local_ensemble,
        .rest = pack_rest(a.rest),
        .first_bias = a.biases.front().const_data_ptr<float>(),
        .hidden = {},
        .last_weight = single ? nullptr : a.weights.back().const_data_ptr<float>(),
        .last_bias = single ? nullptr : a.biases.back().const_data_ptr<float>(),
        .last_in = single ? n0 : a.weights.back().size(1),
        .out_dim = single ? n0 : a.weights.back().size(0),
        .widest = padded(n0),
        .widths = {n0},
    };
    for (size_t k = 0; k + 1 < a.weights.size(); ++k) {
        decoder.hidden.push_back(make_layer(arithmetic, hidden_layer(a, k)));
        decoder.widths.push_back(a.weights[k].size(0));
        decoder.widest = std::max(decoder.widest, padded(decoder.widths.back()));
    }
    return decoder;
}

}  // namespace liif
