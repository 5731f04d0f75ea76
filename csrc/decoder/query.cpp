// Spreads the tiles of a query over the threads.
#include "decoder/query.h"

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <string>
#include <vector>

#include "decoder/decoder.h"
#include "team.h"

namespace liif {

void answer(const liif_query& query, Arithmetic arithmetic, float* out, char* kept) {
    const Decoder decoder(query, arithmetic);
    const int64_t queries = query.queries, pixels = decoder.height * decoder.width;
    const int64_t step = tile_queries(decoder), tiles = (queries + step - 1) / step, all = query.batch * tiles;
    const size_t bytes = kept_bytes(decoder);
    const auto orders = order_queries(decoder, query.coord, query.batch, queries);
    Counter counter(all);
    std::atomic<bool> inside{true};
    run_together(std::min(decoder.threads, all), [&] {
        int64_t t = counter.next();
        if (!counter.has(t)) {
            return;
        }
        Worker worker(decoder);
        for (; counter.has(t); t = counter.next()) {
            const int64_t b = t / tiles, begin = t % tiles * step, start = b * queries;
            char* own = kept ? kept + static_cast<size_t>(t) * bytes : nullptr;
            if (!worker.answer(decoder.projected + b * pixels * decoder.n0, query.coord + start * 2,
                               query.cell ? query.cell + start * 2 : nullptr, orders[static_cast<size_t>(b)].data(),
                               begin, std::min(begin + step, queries), out + start * decoder.out_dim, own)) {
                inside = false;
                counter.stop();
            }
        }
    });
    if (!inside) {
        const auto range = [](int64_t first, int64_t size) {
            return std::to_string(first) + " to " + std::to_string(first + size - 1);
        };
        throw std::out_of_range("window: expected every neighbour of every query inside rows " +
                                range(decoder.top, decoder.height) + " and columns " +
                                range(decoder.left, decoder.width) +
                                " of the map, got one outside; give a larger part of the map");
    }
}

void run_layer(const Layer& layer, const float* rows, int64_t count, int64_t in, int64_t out, int64_t threads,
               float* result) {
    Counter counter((count + kTileRows - 1) / kTileRows);
    run_together(threads, [&] {
        const Buffer<char> scratch(layer.scratch_bytes());
        for (int64_t t = counter.next(); counter.has(t); t = counter.next()) {
            const Tile tile = even_tile(std::min(kTileRows, count - t * kTileRows), layer.block_rows());
            layer.forward(tile, rows + t * kTileRows * in, result + t * kTileRows * out, scratch.get());
        }
    });
}

}  // namespace liif
