#include "decoder/backward.h"

#include <algorithm>
#include <utility>

#include "decoder/packing.h"

namespace liif {
namespace {

Buffer<float> zeros(int64_t count) {
    Buffer<float> buffer(static_cast<size_t>(count));
    std::fill_n(buffer.get(), count, 0.0f);
    return buffer;
}

size_t scratch_bytes(const Backward& backward) {
    size_t bytes = 0;
    for (size_t k = 0; k < backward.weights.size(); ++k) {
        bytes = std::max({bytes, backward.transposed[k]->scratch_bytes(), backward.weights[k]->scratch_bytes()});
    }
    return bytes;
}

}  // namespace

Sums::Sums(const Backward& backward)
    : rest(zeros(kPlace * backward.decoder.widths.front())),
      last_weight(zeros(backward.decoder.out_dim * padded(backward.decoder.last_in))),
      last_bias(zeros(backward.decoder.out_dim)) {
    for (size_t k = 0; k < backward.decoder.widths.size(); ++k) {
        biases.push_back(zeros(backward.decoder.widths[k]));
        if (k > 0) {
            weights.push_back(zeros(backward.decoder.widths[k] * padded(backward.decoder.widths[k - 1])));
        }
    }
}

BackwardWorker::BackwardWorker(const Backward& backward)
    : backward_(backward),
      kept_places_(kept_places(backward.decoder.widths)),
      gather_(backward.decoder),
      first_(static_cast<size_t>(kTileRows * padded(backward.decoder.n0))),
      rows_(static_cast<size_t>(kTileRows * backward.decoder.widest)),
      gradient_{Buffer<float>(static_cast<size_t>(kTileRows * backward.decoder.widest)),
                Buffer<float>(static_cast<size_t>(kTileRows * backward.decoder.widest))},
      blended_(static_cast<size_t>(backward.decoder.widest)),
      places_(static_cast<size_t>(kTileRows * kPlace)),
      scratch_(scratch_bytes(backward)) {}

// The tile's activations of a layer, valid until the next call: unpacked when they are wanted, into the same place, so
// that they stay in cache.
const float* BackwardWorker::activations(const Queries& queries, size_t layer) {
    if (layer == 0) {
        return first_.get();
    }
    unpack(queries.kept + kept_places_[layer], gather_.tile().rows, backward_.decoder.widths[layer], rows_.get());
    return rows_.get();
}

// -> dz of the last hidden layer, or of the first layer where it is the only one.
float* BackwardWorker::last_layer(const Queries& queries, const float* top, Sums& sums) {
    const Decoder& d = backward_.decoder;
    const int64_t width = backward_.decoder.widths.back(), stride = padded(width);
    const int64_t corners = gather_.tile().rows / queries.count;
    float* dz = gradient_[0].get();
    for (int64_t q = 0; q < queries.count; ++q) {
        const float* grad = queries.grad + static_cast<int64_t>(queries.order[q]) * d.out_dim;
        if (!d.last_weight) {
            for (int64_t c = 0; c < corners; ++c) {
                const int64_t r = gather_.row(c, q);
                loops.scale(grad, gather_.corner(r).share, width, dz + r * stride);
            }
            continue;
        }
        const float* rows[4] = {};
        float shares[4] = {};
        for (int64_t c = 0; c < corners; ++c) {
            const int64_t r = gather_.row(c, q);
            rows[c] = top + r * stride;
            shares[c] = gather_.corner(r).share;
        }
        loops.blend(rows, shares, static_cast<int>(corners), width, blended_.get());
        for (int64_t j = 0; j < d.out_dim; ++j) {
            loops.add_row(blended_.get(), grad[j], width, sums.last_weight.get() + j * stride);
            sums.last_bias[static_cast<size_t>(j)] += grad[j];
        }
        std::fill_n(blended_.get(), width, 0.0f);
        for (int64_t j = 0; j < d.out_dim; ++j) {
            loops.add_row(d.last_weight + j * width, grad[j], width, blended_.get());
        }
        for (int64_t c = 0; c < corners; ++c) {
            float* row = dz + gather_.row(c, q) * stride;
            loops.scale(blended_.get(), shares[c], width, row);
            loops.mask(row, rows[c], stride, 1, width);
        }
    }
    return dz;
}

// dz of the first layer.
const float* BackwardWorker::propagate(const Queries& queries, Sums& sums) {
    const Tile& tile = gather_.tile();
    size_t k = backward_.weights.size();
    float *dz = last_layer(queries, activations(queries, k), sums), *next = gradient_[1].get();
    for (; k > 0; --k) {
        const float* below = activations(queries, k - 1);
        const int64_t width = backward_.decoder.widths[k];
        loops.add_rows(dz, padded(width), tile.rows, width, sums.biases[k].get());
        backward_.weights[k - 1]->add(tile, dz, below, sums.weights[k - 1].get(), scratch_.get());
        backward_.transposed[k - 1]->backward(tile, dz, below, next, scratch_.get());
        std::swap(dz, next);
    }
    return dz;
}

}  // namespace liif
