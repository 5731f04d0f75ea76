// float32 layers that skip zeros, for any vectors. Half or more of what leaves a ReLU is zero, and neighbouring rows
// (the same feature pixel seen from nearby queries) have their zeros in nearly the same places. So each block of rows
// gets a list of the inputs that are not zero in all of its rows, and the multiplication walks that list. Skipping
// exact zeros changes no sum, except that an infinite weight times zero, NaN in a full product, is left out.
//
// To be included in an anonymous namespace with the primitives of one instruction set (simd/) and
//   LIIF_TARGET      the functions' target attribute
//   kRows, kPanel    rows of a block and vectors of columns of a panel, at most
//   kAhead           how many steps ahead weights are fetched into the first-level cache; 0 for never
//   kBlocksTogether  how many blocks pass by a panel of weights before the next panel's turn

// Floats of a stored row of a panel.
constexpr int64_t kRow = kPanel * kLanes;

// What a block multiplies: one step for each input that is not zero in all of its rows.
struct Steps {
    int32_t* inputs;   // which input
    int32_t* weights;  // where its row of a panel starts, with zeros behind the last
    int count;
};

LIIF_TARGET void find_steps(const float* in, int64_t stride, int rows, int64_t width, Steps& steps) {
    const Bits row = spread_bits(kRow), lanes = spread_bits(kLanes);
    Bits index = lane_numbers();
    int count = 0;
    for (int64_t k = 0; k < width; k += kLanes) {
        Bits any = no_bits();
        for (int r = 0; r < rows; ++r) {
            any = either(any, load_bits(in + r * stride + k));
        }
        const Mask alive = nonzero_floats(any) & first_lanes(width - k);
        const Bits found = to_front(alive, index);
        store_bits(steps.inputs + count, found);
        store_bits(steps.weights + count, mul_bits(found, row));
        count += __builtin_popcount(alive);
        index = add_bits(index, lanes);
    }
    store_bits(steps.weights + count, no_bits());
    steps.count = count;
}

// out[r][n] = relu(bias[n] + sum over the list of in[r][k] * panel[k][n]) for R rows and V vectors of columns; or, with
// `active`, that sum where active > 0 and else zero.
template <int R, int V>
LIIF_TARGET void multiply(const float* in, int64_t in_stride, const Steps& steps, const float* panel, const float* bias,
                          const float* active, float* out, int64_t out_stride) {
    Vector sum[R][V];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 3
        for (int v = 0; v < V; ++v) {
            sum[r][v] = load(bias + kLanes * v);
        }
    }
    const auto offsets = row_offsets<kRows>(in_stride * static_cast<int64_t>(sizeof(float)));
    const int32_t *inputs = steps.inputs, *weights = steps.weights;
    for (int i = 0, count = steps.count; i < count; ++i) {
        const char* column = reinterpret_cast<const char*>(in + inputs[i]);
        asm("" : "+r"(column));
        const float* row = panel + weights[i];
        const float* later = panel + weights[i + kAhead];
        Vector weight[V];
#pragma GCC unroll 3
        for (int v = 0; v < V; ++v) {
            if constexpr (kAhead > 0) {
                __builtin_prefetch(later + kLanes * v, 0, 3);
            }
            weight[v] = load(row + kLanes * v);
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            float input;
            std::memcpy(&input, column + offsets[r], sizeof(input));
            const Vector value = spread(input);
#pragma GCC unroll 3
            for (int v = 0; v < V; ++v) {
                sum[r][v] = fused(value, weight[v], sum[r][v]);
                column = after(sum[r][v], column);
            }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 3
        for (int v = 0; v < V; ++v) {
            const int64_t at = r * out_stride + kLanes * v;
            store(out + at, active ? where_positive(load(active + at), sum[r][v]) : relu(sum[r][v]));
        }
    }
}

constexpr auto kMultiply = table_of_rows<kRows, kPanel>([](auto r, auto v) { return &multiply<r, v>; });

class SkippingLayer final : public Layer {
  public:
    explicit SkippingLayer(const Linear& linear)
        : in_(linear.in),
          out_(linear.out),
          panels_(split_columns(linear.out, kPanel, kLanes)),
          packed_(pack_panels(linear, panels_, kRow, kLanes)),
          bias_(pad_bias(linear)) {}

    int block_rows() const override { return kRows; }

    // Two lists for each block.
    size_t scratch_bytes() const override { return static_cast<size_t>(2 * kBlocks * list()) * sizeof(int32_t); }

  private:
    void run(const Tile& tile, const float* in, const float* active, float* out, char* scratch) const override {
        const int64_t in_stride = padded(in_), out_stride = padded(out_);
        std::array<Steps, kBlocks> steps;
        for (size_t begin = 0; begin < tile.blocks.size(); begin += kBlocks) {
            const size_t blocks = std::min<size_t>(kBlocks, tile.blocks.size() - begin);
            for (size_t b = 0; b < blocks; ++b) {
                const Block& block = tile.blocks[begin + b];
                int32_t* lists = reinterpret_cast<int32_t*>(scratch) + 2 * static_cast<int64_t>(b) * list();
                steps[b] = {lists, lists + list(), 0};
                find_steps(in + block.first * in_stride, in_stride, block.count, in_, steps[b]);
            }
            for (size_t p = 0; p < panels_.size(); ++p) {
                const int64_t first = panels_[p].first;
                for (size_t b = 0; b < blocks; ++b) {
                    const Block& block = tile.blocks[begin + b];
                    const int64_t at = block.first * out_stride + first;
                    kMultiply[static_cast<size_t>(panels_[p].vectors - 1)][static_cast<size_t>(block.count - 1)](
                        in + block.first * in_stride, in_stride, steps[b], panel(p), bias_.get() + first,
                        active ? active + at : nullptr, out + at, out_stride);
                }
            }
        }
    }

    static constexpr int64_t kBlocks = kBlocksTogether;

    const float* panel(size_t p) const { return packed_.get() + static_cast<int64_t>(p) * kRow * in_; }
    // Room for a whole vector past the end.
    int64_t list() const { return padded(in_) + kVector; }

    int64_t in_, out_;
    std::vector<Panel> panels_;
    Buffer<float> packed_;  // panels, each [in, kRow]
    Buffer<float> bias_;
};
