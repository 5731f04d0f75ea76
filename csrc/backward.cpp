#include "backward.h"

#include <algorithm>
#include <cstring>

#include "packing.h"

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
      gather_(backward.decoder),
      sums_(backward),
      gradient_{Buffer<float>(static_cast<size_t>(kTileRows * backward.decoder.widest)),
                Buffer<float>(static_cast<size_t>(kTileRows * backward.decoder.widest))},
      blended_(static_cast<size_t>(backward.decoder.widest)),
      scratch_(scratch_bytes(backward)) {
    for (const int64_t width : backward.decoder.widths) {
        rows_.emplace_back(static_cast<size_t>(kTileRows * padded(width)));
    }
}

void BackwardWorker::release() const {
    for (const auto& layer : backward_.transposed) {
        layer->release();
    }
}

void BackwardWorker::take_over(const char* kept) {
    for (size_t k = 1; k < rows_.size(); ++k) {
        kept = unpack(kept, gather_.tile().rows, backward_.decoder.widths[k], rows_[k].get());
    }
}

// -> dz of the last hidden layer, or of the first layer where it is the only one.
float* BackwardWorker::last_layer(const Queries& queries) {
    const Decoder& d = backward_.decoder;
    const int64_t width = backward_.decoder.widths.back(), stride = padded(width);
    const int64_t corners = gather_.tile().rows / queries.count;
    const float* top = rows_.back().get();
    float* dz = gradient_[0].get();
    for (int64_t q = 0; q < queries.count; ++q) {
        const float* grad = queries.grad + static_cast<int64_t>(queries.order[q]) * d.out_dim;
        if (!d.last_weight) {
            for (int64_t c = 0; c < corners; ++c) {
                const int64_t r = gather_.row(c, q);
                scale(grad, gather_.corner(r).share, width, dz + r * stride);
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
        blend(rows, shares, static_cast<int>(corners), width, blended_.get());
        for (int64_t j = 0; j < d.out_dim; ++j) {
            add_row(blended_.get(), grad[j], width, sums_.last_weight.get() + j * stride);
            sums_.last_bias[static_cast<size_t>(j)] += grad[j];
        }
        std::fill_n(blended_.get(), width, 0.0f);
        for (int64_t j = 0; j < d.out_dim; ++j) {
            add_row(d.last_weight + j * width, grad[j], width, blended_.get());
        }
        for (int64_t c = 0; c < corners; ++c) {
            float* row = dz + gather_.row(c, q) * stride;
            scale(blended_.get(), shares[c], width, row);
            mask(row, rows[c], stride, 1, width);
        }
    }
    return dz;
}

// dz of the last hidden layer -> dz of the first layer.
float* BackwardWorker::hidden_layers(float* dz) {
    float* next = gradient_[1].get();
    const Tile& tile = gather_.tile();
    for (size_t k = backward_.weights.size(); k > 0; --k) {
        const float* below = rows_[k - 1].get();
        const int64_t width = backward_.decoder.widths[k];
        add_rows(dz, padded(width), tile.rows, width, sums_.biases[k].get());
        backward_.weights[k - 1]->add(tile, dz, below, sums_.weights[k - 1].get(), scratch_.get());
        backward_.transposed[k - 1]->forward(tile, dz, below, next, scratch_.get());
        std::swap(dz, next);
    }
    return dz;
}

void BackwardWorker::first_layer(const float* dz) {
    const int64_t n0 = backward_.decoder.n0, stride = padded(n0);
    add_rows(dz, stride, gather_.tile().rows, n0, sums_.biases[0].get());
    for (int64_t r = 0; r < gather_.tile().rows; ++r) {
        const float* place = gather_.corner(r).place;
        for (int64_t column = 0; column < kPlace; ++column) {
            add_row(dz + r * stride, place[column], n0, sums_.rest.get() + column * n0);
        }
    }
}

bool BackwardWorker::propagate(const float* map, const Queries& queries) {
    if (!gather_.look_up(map, queries.coord, queries.cell, queries.order, queries.count, rows_[0].get())) {
        return false;
    }
    take_over(queries.kept);
    first_ = hidden_layers(last_layer(queries));
    first_layer(first_);
    return true;
}

}  // namespace liif
