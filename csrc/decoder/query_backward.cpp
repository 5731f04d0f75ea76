// The backward of a query: cuts the tiles into fixed shares, which threads take when they are ready, and adds up the
// shares' gradients in a fixed order, so that the same number of threads gives the same bits.
#include <algorithm>
#include <atomic>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include "decoder/backward.h"
#include "decoder/query.h"
#include "team.h"

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
    Pass(const liif_query& query, const Backward& backward, const float* grad, const char* kept, float* d_projected)
        : backward_(backward),
          decoder_(backward.decoder),
          coord_(query.coord),
          cell_(query.cell),
          grad_(grad),
          target_(d_projected),
          batch_(query.batch),
          queries_(query.queries),
          step_(tile_queries(decoder_)),
          tiles_((queries_ + step_ - 1) / step_),
          kept_(kept),
          kept_bytes_(static_cast<int64_t>(kept_bytes(decoder_))) {}

    // Adds everything up; the sums of each share, or nothing if a query needs a pixel outside of the window.
    AllSums run() {
        orders_ = order_queries(decoder_, coord_, batch_, queries_);
        share_out();
        const auto count = static_cast<int64_t>(shares_.size());
        Counter counter(count);
        std::atomic<bool> inside{true};
        run_together(std::min(decoder_.threads, count), [&] {
            int64_t s = counter.next();
            if (!counter.has(s)) {
                return;
            }
            BackwardWorker worker(backward_);
            for (; counter.has(s); s = counter.next()) {
                if (!work(shares_[static_cast<size_t>(s)], worker)) {
                    inside = false;
                    counter.stop();
                }
            }
        });
        AllSums sums;
        if (!inside) {
            return sums;
        }
        for (Share& share : shares_) {
            const int64_t width = decoder_.width * decoder_.n0;
            if (share.own > share.first_row) {
                loops.add_row(share.halo.get(), 1.0f, (share.own - share.first_row) * width,
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
        const int64_t all = batch_ * tiles_, threads = decoder_.threads;
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

// out [rows, columns] += one of the shares' sums, which has rows `stride` apart.
template <typename Get>
void add_up(const AllSums& sums, int64_t rows, int64_t columns, int64_t stride, float* out, const Get& get) {
    for (const auto& part : sums) {
        const float* from = get(*part);
        for (int64_t r = 0; r < rows; ++r) {
            loops.add_row(from + r * stride, 1.0f, columns, out + r * columns);
        }
    }
}

void add_up(const Backward& backward, const AllSums& sums, int64_t rest_columns, const Gradients& to) {
    const Decoder& d = backward.decoder;
    const int64_t n0 = d.widths.front();
    std::vector<float> rest(static_cast<size_t>(kPlace * n0), 0.0f);
    add_up(sums, kPlace, n0, n0, rest.data(), [](const Sums& s) { return s.rest.get(); });
    for (int64_t n = 0; n < n0; ++n) {
        for (int64_t column = 0; column < rest_columns; ++column) {
            to.rest[n * rest_columns + column] = rest[static_cast<size_t>(column * n0 + n)];
        }
    }
    for (size_t k = 0; k < d.widths.size(); ++k) {
        const int64_t width = d.widths[k];
        add_up(sums, 1, width, width, to.biases[k], [k](const Sums& s) { return s.biases[k].get(); });
        if (k > 0) {
            for (const auto& part : sums) {
                backward.weights[k - 1]->collect(part->weights[k - 1].get(), to.weights[k - 1]);
            }
        }
    }
    if (d.last_weight) {
        const size_t last = d.widths.size();
        add_up(sums, d.out_dim, d.last_in, padded(d.last_in), to.weights[last - 1],
               [](const Sums& s) { return s.last_weight.get(); });
        add_up(sums, 1, d.out_dim, d.out_dim, to.biases[last], [](const Sums& s) { return s.last_bias.get(); });
    }
}

// [rows, columns] -> [columns, rows].
Buffer<float> transposed(const float* matrix, int64_t rows, int64_t columns) {
    Buffer<float> result(static_cast<size_t>(rows * columns));
    for (int64_t r = 0; r < rows; ++r) {
        for (int64_t c = 0; c < columns; ++c) {
            result[static_cast<size_t>(c * rows + r)] = matrix[r * columns + c];
        }
    }
    return result;
}

}  // namespace

void differentiate(const liif_query& query, Arithmetic arithmetic, const float* grad, const char* kept,
                   const Gradients& gradients) {
    const Decoder decoder(query, arithmetic);
    Backward backward{decoder, {}, {}};
    for (int64_t k = 0; k + 2 < query.layers; ++k) {
        const int64_t in = query.widths[k], out = query.widths[k + 1];
        const Buffer<float> weight = transposed(query.weights[k], out, in);
        backward.transposed.push_back(make_layer(arithmetic, {weight.get(), nullptr, out, in}));
        backward.weights.push_back(make_weight_gradient(arithmetic, in, out));
    }
    const AllSums sums = Pass(query, backward, grad, kept, gradients.projected).run();
    if (sums.empty() && query.batch * query.queries > 0) {
        throw std::out_of_range(
            "window: expected every neighbour of every query inside the part of the map, got one outside; give a "
            "larger part");
    }
    add_up(backward, sums, query.cell ? 4 : 2, gradients);
}

}  // namespace liif
