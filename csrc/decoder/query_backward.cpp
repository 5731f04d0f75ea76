// liif_fast::cpu_query_backward: cuts the tiles into fixed shares, which threads take when they are ready, and adds up
// the shares' gradients in a fixed order, so that the same number of threads gives the same bits.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include "arguments.h"
#include "decoder/backward.h"

namespace liif {
namespace {

// Tiles [begin, end) of all maps, and the rows of pixels of all maps that they touch.
struct Share {
    int64_t begin, end;
    int64_t first_row, last_row;  // empty where last_row < first_row
    int64_t own = 0;              // rows before this one are touched by an earlier share too
    Buffer<float> halo{0};        // their gradients: rows first_row to own - 1
    std::unique_ptr<Sums> sums{};
};

using AllSums = std::vector<std::unique_ptr<Sums>>;

class Pass {
  public:
    Pass(const Arguments& a, const Backward& backward, const at::Tensor& grad, const at::Tensor& kept,
         at::Tensor& d_projected)
        : backward_(backward),
          decoder_(backward.decoder),
          coord_(a.coord.const_data_ptr<float>()),
          cell_(a.cell.defined() ? a.cell.const_data_ptr<float>() : nullptr),
          grad_(grad.const_data_ptr<float>()),
          target_(d_projected.mutable_data_ptr<float>()),
          batch_(a.coord.size(0)),
          queries_(a.coord.size(1)),
          step_(tile_queries(decoder_)),
          tiles_((queries_ + step_ - 1) / step_),
          kept_(reinterpret_cast<const char*>(kept.const_data_ptr<uint8_t>())),
          kept_bytes_(static_cast<int64_t>(kept_bytes(decoder_))) {}

    // Adds everything up; the sums of each share, or nothing if a query needs a pixel outside of the window.
    AllSums run() {
        orders_ = order_queries(decoder_, coord_, batch_, queries_);
        share_out();
        std::atomic<size_t> next{0};
        std::atomic<bool> inside{true};
        const auto threads = std::min<int64_t>(at::get_num_threads(), static_cast<int64_t>(shares_.size()));
        at::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
            BackwardWorker worker(backward_);
            for (size_t s = next++; s < shares_.size() && inside; s = next++) {
                if (!work(shares_[s], worker)) {
                    inside = false;
                }
            }
            worker.release();
        });
        AllSums sums;
        if (!inside) {
            return sums;
        }
        for (Share& share : shares_) {
            const int64_t width = decoder_.width * decoder_.n0;
            if (share.own > share.first_row) {
                add_row(share.halo.get(), 1.0f, (share.own - share.first_row) * width,
                        target_ + share.first_row * width);
            }
            sums.push_back(std::move(share.sums));
        }
        return sums;
    }

  private:
    // Tiles in the order of the maps and of their pixels, in equal runs: neighbouring shares have few rows of pixels in
    // common. Several for each thread, so that a slow or busy core does not hold up the others, but not many, since
    // each has sums of its own.
    void share_out() {
        constexpr int64_t kEach = 4, kShares = 32;
        const int64_t all = batch_ * tiles_, threads = at::get_num_threads();
        const int64_t count = std::min(all, std::max(threads, std::min(kEach * threads, kShares)));
        int64_t touched = 0;
        for (int64_t t = 0; t < count; ++t) {
            Share share{all * t / count, all * (t + 1) / count, batch_ * decoder_.height, -1};
            for (int64_t tile = share.begin; tile < share.end; ++tile) {
                const int64_t b = tile / tiles_, first = tile % tiles_ * step_;
                for (int64_t q = first; q < std::min(first + step_, queries_); ++q) {
                    const float y = coord_[2 * (b * queries_ + order(b)[q])];
                    share.first_row = std::min(share.first_row, map_row(b, y, 0));
                    share.last_row = std::max(share.last_row, map_row(b, y, decoder_.local_ensemble ? 1 : 0));
                }
            }
            share.own = std::min(std::max(touched, share.first_row), share.last_row + 1);
            touched = std::max(touched, share.last_row + 1);
            shares_.push_back(std::move(share));
        }
    }

    // The row of pixels of all windows that a query looks at; one outside of its window is refused later.
    int64_t map_row(int64_t b, float y, int side) const {
        const int64_t row = decoder_.y.nearest(y, side) - decoder_.top;
        return b * decoder_.height + std::clamp<int64_t>(row, 0, decoder_.height - 1);
    }

    const int32_t* order(int64_t b) const { return orders_[static_cast<size_t>(b)].data(); }

    bool work(Share& share, BackwardWorker& worker) const {
        const int64_t n0 = decoder_.n0, pixels = decoder_.height * decoder_.width;
        const int64_t floats = (share.own - share.first_row) * decoder_.width * n0;
        share.halo = Buffer<float>(static_cast<size_t>(floats));
        std::fill_n(share.halo.get(), floats, 0.0f);
        share.sums = std::make_unique<Sums>(backward_);
        for (int64_t tile = share.begin; tile < share.end; ++tile) {
            const int64_t b = tile / tiles_, first = tile % tiles_ * step_, start = b * queries_;
            const Queries queries{
                coord_ + start * 2, cell_ ? cell_ + start * 2 : nullptr, grad_ + start * decoder_.out_dim,
                order(b) + first,   std::min(step_, queries_ - first),   kept_ + tile * kept_bytes_};
            const auto target = [&](int64_t pixel) {
                const int64_t place = b * pixels + pixel;
                const bool own = place >= share.own * decoder_.width;
                return own ? target_ + place * n0 : share.halo.get() + (place - share.first_row * decoder_.width) * n0;
            };
            if (!worker.add(decoder_.projected + b * pixels * n0, queries, *share.sums, target)) {
                return false;
            }
        }
        return true;
    }

    const Backward& backward_;
    const Decoder& decoder_;
    const float *coord_, *cell_, *grad_;
    float* target_;
    int64_t batch_, queries_, step_, tiles_;
    const char* kept_;
    int64_t kept_bytes_;
    std::vector<std::vector<int32_t>> orders_;  // of each map
    std::vector<Share> shares_;
};

// The total of one [rows, columns] of the sums, which has rows `stride` apart.
template <typename Get>
at::Tensor total(const AllSums& sums, int64_t rows, int64_t columns, int64_t stride, const Get& get) {
    at::Tensor sum = at::zeros({rows, columns}, at::kFloat);
    float* to = sum.mutable_data_ptr<float>();
    for (const auto& part : sums) {
        const float* from = get(*part);
        for (int64_t r = 0; r < rows; ++r) {
            add_row(from + r * stride, 1.0f, columns, to + r * columns);
        }
    }
    return sum;
}

using Gradients = std::tuple<at::Tensor, at::Tensor, std::vector<at::Tensor>, std::vector<at::Tensor>>;

Gradients add_up(const Arguments& a, const Backward& backward, at::Tensor d_projected, const AllSums& sums) {
    const auto vector = [&](int64_t n, const auto& get) { return total(sums, 1, n, n, get).view({n}); };
    const int64_t n0 = backward.decoder.widths.front(), last = backward.decoder.last_in;
    at::Tensor d_rest = total(sums, kPlace, n0, n0, [](const Sums& s) { return s.rest.get(); });
    std::vector<at::Tensor> d_weights, d_biases;
    for (size_t k = 0; k < backward.decoder.widths.size(); ++k) {
        const int64_t width = backward.decoder.widths[k];
        d_biases.push_back(vector(width, [k](const Sums& s) { return s.biases[k].get(); }));
        if (k > 0) {
            const int64_t in = backward.decoder.widths[k - 1];
            d_weights.push_back(at::zeros({width, in}, at::kFloat));
            for (const auto& part : sums) {
                backward.weights[k - 1]->collect(part->weights[k - 1].get(),
                                                 d_weights.back().mutable_data_ptr<float>());
            }
        }
    }
    if (!a.weights.empty()) {
        const auto get = [](const Sums& s) { return s.last_weight.get(); };
        d_weights.push_back(total(sums, backward.decoder.out_dim, last, padded(last), get));
        d_biases.push_back(vector(backward.decoder.out_dim, [](const Sums& s) { return s.last_bias.get(); }));
    }
    return {d_projected, d_rest.slice(0, 0, a.rest.size(1)).t().contiguous(), d_weights, d_biases};
}

Gradients cpu_query_backward(const at::Tensor& grad, const at::Tensor& projected, const at::Tensor& coord,
                             const std::optional<at::Tensor>& cell, const at::Tensor& rest, at::TensorList weights,
                             at::TensorList biases, bool local_ensemble, at::IntArrayRef window,
                             const std::string& name, const at::Tensor& kept) {
    const Arithmetic arithmetic = checked_arithmetic(name);
    const Arguments a = checked(projected, coord, cell, rest, weights, biases, window);
    const Decoder decoder = make_decoder(a, local_ensemble, window, arithmetic);
    const std::vector<int64_t> answers = {a.coord.size(0), a.coord.size(1), decoder.out_dim};
    TORCH_CHECK(grad.sizes() == answers, "grad: expected ", answers, ", got ", grad.sizes());
    check_float(grad, "grad");
    const int64_t tiles = (a.coord.size(1) + tile_queries(decoder) - 1) / tile_queries(decoder);
    const std::vector<int64_t> expected = {a.coord.size(0), tiles * static_cast<int64_t>(kept_bytes(decoder))};
    TORCH_CHECK(kept.sizes() == expected && kept.scalar_type() == at::kByte && kept.is_contiguous(),
                "kept: expected the second result of cpu_query_keeping, uint8 ", expected, ", got ", kept.scalar_type(),
                " ", kept.sizes());
    Backward backward{decoder, {}, {}};
    for (size_t k = 0; k + 1 < a.weights.size(); ++k) {
        const at::Tensor transposed = a.weights[k].t().contiguous();
        const int64_t in = transposed.size(0), out = transposed.size(1);
        backward.transposed.push_back(make_layer(arithmetic, {transposed.const_data_ptr<float>(), nullptr, out, in}));
        backward.weights.push_back(make_weight_gradient(arithmetic, in, out));
    }
    at::Tensor d_projected = at::zeros(projected.sizes(), at::kFloat);
    const at::Tensor answers_grad = grad.contiguous();
    const AllSums sums = Pass(a, backward, answers_grad, kept, d_projected).run();
    TORCH_CHECK(!sums.empty() || grad.numel() == 0,
                "window: expected every neighbour of every query inside the part of the map, got one outside; give a "
                "larger part");
    return add_up(a, backward, d_projected, sums);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(liif_fast, m) {
    m.def(
        "cpu_query_backward(Tensor grad, Tensor projected, Tensor coord, Tensor? cell, Tensor rest, Tensor[] weights, "
        "Tensor[] biases, bool local_ensemble, int[] window, str arithmetic, Tensor kept) "
        "-> (Tensor, Tensor, Tensor[], Tensor[])");
}

TORCH_LIBRARY_IMPL(liif_fast, CPU, m) { m.impl("cpu_query_backward", &cpu_query_backward); }

}  // namespace liif
