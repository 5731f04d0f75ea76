// liif_fast::cpu_query: checks what comes from Python, packs the weights, spreads the tiles over the threads.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <limits>
#include <string>
#include <vector>

#include "decoder.h"

namespace liif {
namespace {

constexpr int64_t kSortedTogether = 32768;  // queries

void check_matrix(const at::Tensor& t, const char* name, int64_t rows, int64_t columns) {
    TORCH_CHECK(t.dim() == 2 && t.size(0) == rows && t.size(1) == columns, name, ": expected [", rows, ", ", columns,
                "], got ", t.sizes());
}

void check_float(const at::Tensor& t, const char* name) {
    TORCH_CHECK(t.device().is_cpu() && t.scalar_type() == at::kFloat, name, ": expected float32 on the CPU, got ",
                t.scalar_type(), " on ", t.device());
}

// The tensors behind the pointers of a Decoder.
struct Arguments {
    at::Tensor projected, coord, cell, rest;
    std::vector<at::Tensor> weights, biases;
};

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

Decoder make_decoder(const Arguments& a, bool local_ensemble, at::IntArrayRef window, const std::string& arithmetic) {
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
    };
    for (size_t k = 0; k + 1 < a.weights.size(); ++k) {
        const at::Tensor& weight = a.weights[k];
        decoder.hidden.push_back(make_layer(
            arithmetic,
            {weight.const_data_ptr<float>(), a.biases[k + 1].const_data_ptr<float>(), weight.size(1), weight.size(0)}));
        decoder.widest = std::max(decoder.widest, padded(weight.size(0)));
    }
    return decoder;
}

// Answers every query of one feature map; false if one of them needs a pixel outside of the window.
bool answer_map(const Decoder& decoder, const float* map, const float* coord, const float* cell, int64_t queries,
                float* out) {
    std::vector<int32_t> order(static_cast<size_t>(queries));
    const int64_t slabs = (queries + kSortedTogether - 1) / kSortedTogether;
    at::parallel_for(0, slabs, 1, [&](int64_t begin, int64_t end) {
        for (int64_t s = begin; s < end; ++s) {
            order_queries(decoder, coord, s * kSortedTogether, std::min((s + 1) * kSortedTogether, queries),
                          order.data());
        }
    });
    const int64_t step = decoder.local_ensemble ? kTileRows / 4 : kTileRows;
    const int64_t tiles = (queries + step - 1) / step;
    // Threads take the next tile when they are ready, so that a slow or busy core does not hold up the others.
    std::atomic<int64_t> next{0};
    std::atomic<bool> inside{true};
    at::parallel_for(0, std::min<int64_t>(at::get_num_threads(), tiles), 1, [&](int64_t, int64_t) {
        Worker worker(decoder);
        for (int64_t t = next++; t < tiles && inside; t = next++) {
            if (!worker.answer(map, coord, cell, order.data(), t * step, std::min((t + 1) * step, queries), out)) {
                inside = false;
            }
        }
    });
    return inside;
}

at::Tensor cpu_query(const at::Tensor& projected, const at::Tensor& coord, const std::optional<at::Tensor>& cell,
                     const at::Tensor& rest, at::TensorList weights, at::TensorList biases, bool local_ensemble,
                     at::IntArrayRef window, const std::string& arithmetic) {
    const Arguments a = checked(projected, coord, cell, rest, weights, biases, window);
    const auto known = arithmetics("any");
    TORCH_CHECK(std::find(known.begin(), known.end(), arithmetic) != known.end(), "arithmetic: expected one of ", known,
                ", got ", arithmetic);
    const Decoder decoder = make_decoder(a, local_ensemble, window, arithmetic);
    const int64_t batch = a.coord.size(0), queries = a.coord.size(1);
    at::Tensor out = at::empty({batch, queries, decoder.out_dim}, a.projected.options());
    for (int64_t b = 0; b < batch; ++b) {
        const bool inside = answer_map(decoder, decoder.projected + b * decoder.height * decoder.width * decoder.n0,
                                       a.coord.const_data_ptr<float>() + b * queries * 2,
                                       cell ? a.cell.const_data_ptr<float>() + b * queries * 2 : nullptr, queries,
                                       out.mutable_data_ptr<float>() + b * queries * decoder.out_dim);
        TORCH_CHECK(inside, "window: expected every neighbour of every query inside rows ", decoder.top, " to ",
                    decoder.top + decoder.height - 1, " and columns ", decoder.left, " to ",
                    decoder.left + decoder.width - 1, " of the map, got one outside; give a larger part of the map");
    }
    return out;
}

// One hidden layer on rows [N, in], for tests and for measuring the rate of the bare product.
at::Tensor cpu_layer(const at::Tensor& rows, const at::Tensor& weight, const at::Tensor& bias,
                     const std::string& arithmetic) {
    for (auto [tensor, name] : {std::pair{&rows, "rows"}, {&weight, "weight"}, {&bias, "bias"}}) {
        check_float(*tensor, name);
        TORCH_CHECK(tensor->is_contiguous(), name, ": expected a contiguous tensor");
    }
    const int64_t in = rows.size(-1), out = bias.numel(), count = rows.numel() / std::max<int64_t>(in, 1);
    TORCH_CHECK(in > 0 && in == padded(in) && out > 0 && out == padded(out), "expected widths that are multiples of ",
                kVector, ", got ", in, " and ", out);
    check_matrix(weight, "weight", out, in);
    const auto layer = make_layer(arithmetic, {weight.const_data_ptr<float>(), bias.const_data_ptr<float>(), in, out});
    at::Tensor result = at::empty({count, out}, rows.options());
    at::parallel_for(0, (count + kTileRows - 1) / kTileRows, 1, [&](int64_t begin, int64_t end) {
        const Buffer<char> scratch(layer->scratch_bytes());
        for (int64_t t = begin; t < end; ++t) {
            Tile tile{std::min(kTileRows, count - t * kTileRows), {}};
            for (int64_t r = 0; r < tile.rows; r += kBlockRows) {
                tile.blocks.push_back(
                    {static_cast<int32_t>(r), static_cast<int32_t>(std::min<int64_t>(kBlockRows, tile.rows - r))});
            }
            layer->forward(tile, rows.const_data_ptr<float>() + t * kTileRows * in,
                           result.mutable_data_ptr<float>() + t * kTileRows * out, scratch.get());
        }
        layer->release();
    });
    return result;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(liif_fast, m) {
    m.def(
        "cpu_query(Tensor projected, Tensor coord, Tensor? cell, Tensor rest, Tensor[] weights, Tensor[] biases, "
        "bool local_ensemble, int[] window, str arithmetic) -> Tensor");
    m.def("cpu_layer(Tensor rows, Tensor weight, Tensor bias, str arithmetic) -> Tensor");
    m.def("cpu_compiler() -> str", []() { return std::string(__VERSION__); });
    m.def("cpu_arithmetics(str precision) -> str[]",
          [](const std::string& precision) { return arithmetics(precision); });
}

TORCH_LIBRARY_IMPL(liif_fast, CPU, m) {
    m.impl("cpu_query", &cpu_query);
    m.impl("cpu_layer", &cpu_layer);
}

}  // namespace liif
