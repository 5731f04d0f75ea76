#include "decoder/decoder.h"

#include <algorithm>
#include <utility>

#include "decoder/packing.h"
#include "simd/rows.h"
#include "team.h"

namespace liif {
namespace {

Buffer<float> pack_rest(const float* rest, int64_t n0, int64_t columns) {
    Buffer<float> packed(static_cast<size_t>(4 * n0));
    for (int64_t column = 0; column < 4; ++column) {
        for (int64_t n = 0; n < n0; ++n) {
            packed[static_cast<size_t>(column * n0 + n)] = column < columns ? rest[n * columns + column] : 0;
        }
    }
    return packed;
}

}  // namespace

Decoder::Decoder(const liif_query& query, Arithmetic arithmetic)
    : projected(query.projected),
      height(query.height),
      width(query.width),
      n0(query.widths[0]),
      top(query.top),
      left(query.left),
      y(query.full_height, query.local_ensemble != 0),
      x(query.full_width, query.local_ensemble != 0),
      local_ensemble(query.local_ensemble != 0),
      threads(query.threads),
      rest(pack_rest(query.rest, n0, query.cell ? 4 : 2)),
      first_bias(query.biases[0]),
      last_weight(nullptr),
      last_bias(nullptr),
      last_in(n0),
      out_dim(query.widths[query.layers - 1]),
      widest(padded(n0)),
      widths{n0} {
    for (int64_t k = 1; k + 1 < query.layers; ++k) {
        const int64_t in = query.widths[k - 1], out = query.widths[k];
        hidden.push_back(make_layer(arithmetic, {query.weights[k - 1], query.biases[k], in, out}));
        widths.push_back(out);
        widest = std::max(widest, padded(out));
    }
    if (query.layers > 1) {
        last_weight = query.weights[query.layers - 2];
        last_bias = query.biases[query.layers - 1];
        last_in = query.widths[query.layers - 2];
    }
}

Worker::Worker(const Decoder& decoder)
    : decoder_(decoder),
      gather_(decoder),
      rows_{Buffer<float>(static_cast<size_t>(kTileRows * decoder.widest)),
            Buffer<float>(static_cast<size_t>(kTileRows * decoder.widest))},
      blended_(static_cast<size_t>(decoder.widest)),
      scratch_([&] {
          size_t bytes = 0;
          for (const auto& layer : decoder.hidden) {
              bytes = std::max(bytes, layer->scratch_bytes());
          }
          return bytes;
      }()),
      kept_places_(kept_places(decoder.widths)) {}

bool Worker::answer(const float* map, const float* coord, const float* cell, const int32_t* order, int64_t begin,
                    int64_t end, float* out, char* kept) {
    const Decoder& d = decoder_;
    const int64_t count = end - begin;
    const int corners = d.local_ensemble ? 4 : 1;
    float *current = rows_[0].get(), *next = rows_[1].get();
    if (!gather_.look_up(map, coord, cell, order + begin, count, current)) {
        return false;
    }
    for (size_t k = 0; k < d.hidden.size(); ++k) {
        d.hidden[k]->forward(gather_.tile(), current, next, scratch_.get());
        std::swap(current, next);
        if (kept) {
            pack(current, gather_.tile().rows, d.widths[k + 1], kept + kept_places_[k + 1]);
        }
    }
    const int64_t width = d.last_weight ? d.last_in : d.n0, stride = padded(width);
    for (int64_t q = 0; q < count; ++q) {
        const float* rows[4] = {};
        float shares[4] = {};
        for (int c = 0; c < corners; ++c) {
            const int64_t r = gather_.row(c, q);
            rows[c] = current + r * stride;
            shares[c] = gather_.corner(r).share;
        }
        float* answer = out + static_cast<int64_t>(order[begin + q]) * d.out_dim;
        if (d.last_weight) {
            // The blend is linear, so it commutes with the last layer, which then runs once and not four times.
            loops.blend(rows, shares, corners, width, blended_.get());
            loops.linear(blended_.get(), d.last_weight, d.last_bias, width, d.out_dim, answer);
        } else {
            loops.blend(rows, shares, corners, width, answer);
        }
    }
    return true;
}

std::vector<size_t> kept_places(const std::vector<int64_t>& widths) {
    std::vector<size_t> places = {0, 0};
    for (size_t k = 1; k < widths.size(); ++k) {
        places.push_back(places.back() + packed_bytes(kTileRows, widths[k]));
    }
    return places;
}

namespace {

constexpr int64_t kSortedTogether = 32768;  // queries

void order_slab(const Decoder& decoder, const float* coord, int64_t begin, int64_t end, int32_t* order) {
    constexpr int kBits = 11;
    // Pixels from top to bottom in bands of rows: the queries of a tile then share most of their neighbours, also where
    // there is only about one query for each pixel.
    constexpr int64_t kBand = 6;
    const size_t count = static_cast<size_t>(end - begin);
    const int64_t width = decoder.left + decoder.width;
    const auto key_of = [&](const float* at) {
        const int64_t row = decoder.y.nearest(at[0], 0), column = decoder.x.nearest(at[1], 0);
        return static_cast<uint64_t>((row / kBand * width + column) * kBand + row % kBand);
    };
    std::vector<std::pair<uint64_t, int32_t>> items(count), sorted(count);
    uint64_t all = 0;
    for (size_t i = 0; i < count; ++i) {
        const float* at = coord + 2 * (begin + static_cast<int64_t>(i));
        const uint64_t key = key_of(at);
        items[i] = {key, static_cast<int32_t>(begin + static_cast<int64_t>(i))};
        all |= key;
    }
    // Stable radix sort, least significant digit first.
    for (int shift = 0; shift < 64 && all >> shift != 0; shift += kBits) {
        std::vector<size_t> starts((1u << kBits) + 1, 0);
        const auto digit = [&](uint64_t key) { return key >> shift & ((1u << kBits) - 1); };
        for (const auto& item : items) {
            ++starts[digit(item.first) + 1];
        }
        for (size_t i = 1; i < starts.size(); ++i) {
            starts[i] += starts[i - 1];
        }
        for (const auto& item : items) {
            sorted[starts[digit(item.first)]++] = item;
        }
        items.swap(sorted);
    }
    for (size_t i = 0; i < count; ++i) {
        order[begin + static_cast<int64_t>(i)] = items[i].second;
    }
}

std::vector<int32_t> order_map(const Decoder& decoder, const float* coord, int64_t queries) {
    std::vector<int32_t> order(static_cast<size_t>(queries));
    const int64_t slabs = (queries + kSortedTogether - 1) / kSortedTogether;
    Counter counter(slabs);
    run_together(std::min(decoder.threads, slabs), [&] {
        for (int64_t s = counter.next(); counter.has(s); s = counter.next()) {
            order_slab(decoder, coord, s * kSortedTogether, std::min((s + 1) * kSortedTogether, queries), order.data());
        }
    });
    return order;
}

}  // namespace

std::vector<std::vector<int32_t>> order_queries(const Decoder& decoder, const float* coord, int64_t batch,
                                                int64_t queries) {
    std::vector<std::vector<int32_t>> orders;
    for (int64_t b = 0; b < batch; ++b) {
        orders.push_back(order_map(decoder, coord + b * queries * 2, queries));
    }
    return orders;
}

}  // namespace liif
