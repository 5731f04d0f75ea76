// liif_fast::cpu_query: spreads the tiles over the threads.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <limits>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

#include "arguments.h"
#include "cpu.h"
#include "decoder/decoder.h"

namespace liif {
namespace {

// Uninitialised bytes. The buffer that was let go last is given out again: fresh pages, which the kernel clears first,
// cost more time than what is written into them.
at::Tensor reused_bytes(int64_t rows, int64_t columns) {
    struct Spare {
        std::mutex lock;
        std::shared_ptr<Buffer<char>> buffer;
        int64_t bytes = 0;
    };
    // Never destroyed: a tensor may outlive the statics of this library.
    static Spare& spare = *new Spare;
    const int64_t bytes = rows * columns;
    std::shared_ptr<Buffer<char>> buffer;
    {
        const std::lock_guard<std::mutex> guard(spare.lock);
        if (spare.bytes == bytes) {
            buffer = std::move(spare.buffer);
        }
        spare.buffer.reset();
        spare.bytes = 0;
    }
    if (!buffer) {
        buffer = std::make_shared<Buffer<char>>(static_cast<size_t>(bytes));
    }
    const auto let_go = [buffer, bytes](void*) {
        const std::lock_guard<std::mutex> guard(spare.lock);
        spare.buffer = buffer;
        spare.bytes = bytes;
    };
    return at::from_blob(buffer->get(), {rows, columns}, let_go, at::kByte);
}

// Answers every query of all feature maps, and keeps their tiles' activations where `kept` is given; false if one of
// them needs a pixel outside of the window.
bool answer_all(const Decoder& decoder, const Arguments& a, float* out, char* kept) {
    const int64_t batch = a.coord.size(0), queries = a.coord.size(1), pixels = decoder.height * decoder.width;
    const float *coord = a.coord.const_data_ptr<float>(),
                *cell = a.cell.defined() ? a.cell.const_data_ptr<float>() : nullptr;
    const int64_t step = tile_queries(decoder), tiles = (queries + step - 1) / step, all = batch * tiles;
    const size_t bytes = kept_bytes(decoder);
    const auto orders = order_queries(decoder, coord, batch, queries);
    // Threads take the next tile when they are ready, so that a slow or busy core does not hold up the others.
    std::atomic<int64_t> next{0};
    std::atomic<bool> inside{true};
    at::parallel_for(0, std::min<int64_t>(at::get_num_threads(), all), 1, [&](int64_t, int64_t) {
        Worker worker(decoder);
        for (int64_t t = next++; t < all && inside; t = next++) {
            const int64_t b = t / tiles, begin = t % tiles * step, start = b * queries;
            char* own = kept ? kept + static_cast<size_t>(t) * bytes : nullptr;
            if (!worker.answer(decoder.projected + b * pixels * decoder.n0, coord + start * 2,
                               cell ? cell + start * 2 : nullptr, orders[static_cast<size_t>(b)].data(), begin,
                               std::min(begin + step, queries), out + start * decoder.out_dim, own)) {
                inside = false;
            }
        }
    });
    return inside;
}

// The answers, and what their backward takes over (undefined unless `keep`).
std::tuple<at::Tensor, at::Tensor> answer(const at::Tensor& projected, const at::Tensor& coord,
                                          const std::optional<at::Tensor>& cell, const at::Tensor& rest,
                                          at::TensorList weights, at::TensorList biases, bool local_ensemble,
                                          at::IntArrayRef window, const std::string& arithmetic, bool keep) {
    const Arguments a = checked(projected, coord, cell, rest, weights, biases, window);
    const Decoder decoder = make_decoder(a, local_ensemble, window, checked_arithmetic(arithmetic));
    const int64_t batch = a.coord.size(0), queries = a.coord.size(1);
    at::Tensor out = at::empty({batch, queries, decoder.out_dim}, a.projected.options());
    const int64_t tiles = (queries + tile_queries(decoder) - 1) / tile_queries(decoder);
    const int64_t bytes = tiles * static_cast<int64_t>(kept_bytes(decoder));
    const at::Tensor kept = keep ? reused_bytes(batch, bytes) : at::Tensor();
    TORCH_CHECK(answer_all(decoder, a, out.mutable_data_ptr<float>(),
                           keep ? reinterpret_cast<char*>(kept.mutable_data_ptr<uint8_t>()) : nullptr),
                "window: expected every neighbour of every query inside rows ", decoder.top, " to ",
                decoder.top + decoder.height - 1, " and columns ", decoder.left, " to ",
                decoder.left + decoder.width - 1, " of the map, got one outside; give a larger part of the map");
    return {out, kept};
}

at::Tensor cpu_query(const at::Tensor& projected, const at::Tensor& coord, const std::optional<at::Tensor>& cell,
                     const at::Tensor& rest, at::TensorList weights, at::TensorList biases, bool local_ensemble,
                     at::IntArrayRef window, const std::string& arithmetic) {
    return std::get<0>(
        answer(projected, coord, cell, rest, weights, biases, local_ensemble, window, arithmetic, false));
}

std::tuple<at::Tensor, at::Tensor> cpu_query_keeping(const at::Tensor& projected, const at::Tensor& coord,
                                                     const std::optional<at::Tensor>& cell, const at::Tensor& rest,
                                                     at::TensorList weights, at::TensorList biases, bool local_ensemble,
                                                     at::IntArrayRef window, const std::string& arithmetic) {
    return answer(projected, coord, cell, rest, weights, biases, local_ensemble, window, arithmetic, true);
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
    const auto layer = make_layer(checked_arithmetic(arithmetic),
                                  {weight.const_data_ptr<float>(), bias.const_data_ptr<float>(), in, out});
    at::Tensor result = at::empty({count, out}, rows.options());
    at::parallel_for(0, (count + kTileRows - 1) / kTileRows, 1, [&](int64_t begin, int64_t end) {
        const Buffer<char> scratch(layer->scratch_bytes());
        for (int64_t t = begin; t < end; ++t) {
            const Tile tile = even_tile(std::min(kTileRows, count - t * kTileRows), layer->block_rows());
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
    m.def(
        "cpu_query_keeping(Tensor projected, Tensor coord, Tensor? cell, Tensor rest, Tensor[] weights, "
        "Tensor[] biases, bool local_ensemble, int[] window, str arithmetic) -> (Tensor, Tensor)");
    m.def("cpu_layer(Tensor rows, Tensor weight, Tensor bias, str arithmetic) -> Tensor");
    m.def("cpu_compiler() -> str", []() { return std::string(__VERSION__); });
    m.def("cpu_arithmetics(str precision) -> str[]",
          [](const std::string& precision) { return arithmetics(precision); });
    m.def("cpu_has_bf16() -> bool", []() { return has_bf16(); });
}

TORCH_LIBRARY_IMPL(liif_fast, CPU, m) {
    m.impl("cpu_query", &cpu_query);
    m.impl("cpu_query_keeping", &cpu_query_keeping);
    m.impl("cpu_layer", &cpu_layer);
}

}  // namespace liif
