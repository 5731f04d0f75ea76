// The decoder on Hopper (sm_90a): look-up, layer one's update, the MLP and the blend in one persistent kernel.
//
// A block has one producer thread and two consumer warpgroups of 64 rows, row = CORNERS * query + corner. The hidden
// layers' weights lie ready in stages of [WIDTH out][64 in], swizzled; the producers of a cluster stream them through a
// ring in shared memory, each a part of a stage to every block. Activations never leave the registers: an accumulator,
// rounded and activated, is the next wgmma's operand A.
//
// Compiled at run time by NVRTC with these macros: WIDTH (64, 128, 256), HIDDEN (hidden layers), OUTPUTS (1 to 8),
// CORNERS (4 or 1), CELL, GRID, FAR (0 or 1; FAR: more than 2^31 queries a picture), CLUSTER (blocks), STAGES (of the
// ring), BF16 (else fp16). wgmma.h holds wgmma_hidden and wgmma_last for them.

typedef unsigned char uint8;
typedef unsigned short uint16;
typedef unsigned int uint32;
typedef unsigned long long uint64;
typedef long long int64;

#include "wgmma.h"

constexpr int STEP = 64;  // input channels of a stage
constexpr int STAGE_BYTES = WIDTH * STEP * 2;
constexpr int STEPS = WIDTH / STEP;             // stages of a layer
constexpr int LAYERS = HIDDEN - 1;              // hidden layers after the first
constexpr int PAIRS = WIDTH / 2;                // of halves in a vector
constexpr int UPDATES = CELL && !GRID ? 5 : 3;  // vectors of layer one: bias, dy, dx (, cell_h, cell_w)
constexpr int VECTORS = UPDATES + LAYERS;
constexpr int QUERIES = 64 / CORNERS;  // of a warpgroup
constexpr int THREADS = 384;

// Places in shared memory, from its first multiple of 1024 on.
constexpr int LAST_AT = STAGES * STAGE_BYTES;  // [8 out][WIDTH in], swizzled
constexpr int VECTORS_AT = LAST_AT + 16 * WIDTH;
constexpr int LAST_BIAS_AT = VECTORS_AT + VECTORS * WIDTH * 2;
constexpr int BARRIERS_AT = LAST_BIAS_AT + 32;  // full and empty of each stage

struct Axis {
    float size, shift_minus, shift_plus, first, step;  // of the map: pixels, look-up shifts, centres
    float grid_first, grid_step;                       // of the output's pixel centres
};

struct Arguments {
    const uint8* map;  // [B, h, w, WIDTH] halves, strides in halves
    int64 map_b, map_y, map_x;
    const float* coord;
    int64 coord_b, coord_q, coord_i;
    const float* cell;
    int64 cell_b, cell_q, cell_i;
    const uint8* stages;
    const uint8* last;
    const uint8* vectors;
    const float* last_bias;  // 8
    float* out;              // [B, Q, OUTPUTS]
    int64 queries;
    Axis y, x;
    int top, left, map_height, map_width;  // the part of the full map that is there
    int grid_top, grid_left, grid_width;
    int tiles, picture_tiles;
};

__device__ __forceinline__ uint32 shared_address(const void* p) { return (uint32)__cvta_generic_to_shared(p); }

// Barriers in shared memory.

__device__ __forceinline__ void barrier_init(uint32 barrier, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count));
}

__device__ __forceinline__ void expect_bytes(uint32 barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

// Plain and not .release.cluster, which would wait for every write to global memory.
__device__ __forceinline__ void arrive_at(uint32 barrier, int block) {
    asm volatile(
        "{\n.reg .b32 there;\n"
        "mapa.shared::cluster.u32 there, %0, %1;\n"
        "mbarrier.arrive.shared::cluster.b64 _, [there];\n}" ::"r"(barrier),
        "r"(block)
        : "memory");
}

__device__ __forceinline__ void wait_for(uint32 barrier, int phase) {
    asm volatile(
        "{\n.reg .pred over;\n"
        "again:\n"
        "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 over, [%0], %1;\n"
        "@!over bra again;\n}" ::"r"(barrier),
        "r"(phase)
        : "memory");
}

__device__ __forceinline__ void cluster_barrier() {
    asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}

// To every block of the cluster, at the same place.
__device__ __forceinline__ void copy_to_cluster(uint32 target, const uint8* source, int bytes, uint32 barrier) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1], %2, [%3], "
        "%4;" ::"r"(target),
        "l"(source), "r"(bytes), "r"(barrier), "h"((uint16)((1 << CLUSTER) - 1))
        : "memory");
}

// Matrix operands.

// K-major, swizzled by 128 bytes, 1024 bytes from 8 rows to the next 8.
__device__ __forceinline__ uint64 descriptor(uint32 address) {
    return (uint64)((address & 0x3FFFF) >> 4) | (1ull << 16) | (64ull << 32) | (1ull << 62);
}

__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

template <int PENDING>
__device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

// Pairs of halves.

#if BF16
#define PAIR "bf16x2"
constexpr uint32 ONES = 0x3F803F80u;
#else
#define PAIR "f16x2"
constexpr uint32 ONES = 0x3C003C00u;
#endif

__device__ __forceinline__ uint32 pack(float low, float high) {
    uint32 pair;
    asm("cvt.rn." PAIR ".f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

__device__ __forceinline__ uint32 multiply_add(uint32 a, uint32 b, uint32 c) {
    uint32 pair;
    asm("fma.rn." PAIR " %0, %1, %2, %3;" : "=r"(pair) : "r"(a), "r"(b), "r"(c));
    return pair;
}

// relu(a + b); NaN passes.
__device__ __forceinline__ uint32 add_relu(uint32 a, uint32 b) {
    uint32 pair;
    asm("fma.rn.relu." PAIR " %0, %1, %2, %3;" : "=r"(pair) : "r"(a), "r"(ONES), "r"(b));
    return pair;
}

// Where a row looks: the published float32 arithmetic, operation by operation, as kernels/lookup.py.

__device__ __forceinline__ int axis_pixel(float coord, bool plus, const Axis& axis) {
    const float edge = 1 - 1e-6f;
    float look = __fadd_rn(coord, plus ? axis.shift_plus : axis.shift_minus);
    look = fminf(fmaxf(look, -edge), edge);
    float position = __fmul_rn(__fadd_rn(__fmul_rn(__fadd_rn(look, 1.0f), axis.size), -1.0f), 0.5f);
    // Adding and taking away 1.5 * 2^23 rounds to an integer, halves to the even one.
    float nearest = __fadd_rn(__fadd_rn(position, 12582912.0f), -12582912.0f);
    nearest = nearest >= 0.0f ? nearest : 0.0f;
    return (int)fminf(nearest, axis.size - 1.0f);
}

__device__ __forceinline__ float axis_offset(float coord, int pixel, const Axis& axis) {
    float centre = __fadd_rn(__fmul_rn((float)pixel, axis.step), axis.first);
    return __fmul_rn(__fadd_rn(coord, -centre), axis.size);
}

struct Row {
    int64 query;  // within its picture
    bool valid;   // it has a query
    float dy, dx, cell_h, cell_w;
};

// A row's place and offsets; returns the address of its pixel's channels, null outside of the map's part.
__device__ __forceinline__ const uint8* find_row(const Arguments& p, int picture, int64 first, int row, Row& found) {
    int64 query = first + row / CORNERS;
    found.valid = query < p.queries;
    found.query = query;
    query = found.valid ? query : p.queries - 1;
    float at_y, at_x;
    found.cell_h = found.cell_w = 0.0f;
#if GRID
#if FAR
    int64 line = query / p.grid_width;
#else
    uint32 line = (uint32)query / (uint32)p.grid_width;
#endif
    int column = (int)(query - (int64)line * p.grid_width);
    at_y = __fadd_rn(__fmul_rn((float)(p.grid_top + (int)line), p.y.grid_step), p.y.grid_first);
    at_x = __fadd_rn(__fmul_rn((float)(p.grid_left + column), p.x.grid_step), p.x.grid_first);
#else
    const float* at = p.coord + picture * p.coord_b + query * p.coord_q;
    at_y = at[0];
    at_x = at[p.coord_i];
#if CELL
    const float* cell = p.cell + picture * p.cell_b + query * p.cell_q;
    found.cell_h = __fmul_rn(cell[0], p.y.size);
    found.cell_w = __fmul_rn(cell[p.cell_i], p.x.size);
#endif
#endif
    int y = axis_pixel(at_y, row & 2, p.y), x = axis_pixel(at_x, row & 1, p.x);
    found.dy = axis_offset(at_y, y, p.y);
    found.dx = axis_offset(at_x, x, p.x);
    y -= p.top;
    x -= p.left;
    bool inside = y >= 0 && y < p.map_height && x >= 0 && x < p.map_width;
    return inside ? p.map + 2 * (picture * p.map_b + y * p.map_y + x * p.map_x) : nullptr;
}

// Layer one of a warp's 16 rows into wgmma's operand A. A lane reads 16 bytes, 8 channels, at a time; which places of
// the operand they take is undone by the order of the next layer's weights.
__device__ __forceinline__ void first_layer(const uint8* const source[2], const Row row[2], const uint8* vectors,
                                            int lane, uint32* a) {
    int quad = lane & 3;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const uint4* channels = (const uint4*)source[r] + quad;
#pragma unroll
        for (int j = 0; j < WIDTH / 32; j++) {
            uint4 eight = source[r] ? __ldg(channels + 4 * j) : make_uint4(0, 0, 0, 0);
            a[8 * j + r] = eight.x;
            a[8 * j + 2 + r] = eight.y;
            a[8 * j + 4 + r] = eight.z;
            a[8 * j + 6 + r] = eight.w;
        }
    }
    uint32 scale[2][4];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        scale[r][0] = pack(row[r].dy, row[r].dy);
        scale[r][1] = pack(row[r].dx, row[r].dx);
        scale[r][2] = pack(row[r].cell_h, row[r].cell_h);
        scale[r][3] = pack(row[r].cell_w, row[r].cell_w);
    }
#pragma unroll
    for (int j = 0; j < WIDTH / 32; j++) {
        const uint4* vector = (const uint4*)vectors + 4 * j + quad;
        uint4 update[UPDATES];
#pragma unroll
        for (int u = 0; u < UPDATES; u++) update[u] = vector[u * (WIDTH / 8)];
#pragma unroll
        for (int k = 0; k < 4; k++) {
#pragma unroll
            for (int r = 0; r < 2; r++) {
                uint32 sum = (&update[0].x)[k];
#pragma unroll
                for (int u = 1; u < UPDATES; u++) sum = multiply_add((&update[u].x)[k], scale[r][u - 1], sum);
                uint32& pair = a[8 * j + 2 * k + r];
                pair = add_relu(pair, sum);
            }
        }
    }
}

struct Ring {
    uint32 base, full, empty;  // addresses
    int stage, phase;

    __device__ __forceinline__ void next() {
        if (++stage == STAGES) {
            stage = 0;
            phase ^= 1;
        }
    }
};

// Tells every producer of the cluster that this warpgroup has done with a stage.
__device__ __forceinline__ void give_back(const Ring& ring, int stage, int thread) {
    if (thread < CLUSTER) arrive_at(ring.empty + 8 * stage, thread);
}

// a = relu(a @ weights + bias), the weights as they come through the ring.
__device__ __forceinline__ void hidden_layer(Ring& ring, const uint32* bias, int thread, uint32* a) {
    float sums[WIDTH / 2];
    int before = 0;
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
        wait_for(ring.full + 8 * ring.stage, ring.phase);
        uint64 weights = descriptor(ring.base + ring.stage * STAGE_BYTES);
#pragma unroll
        for (int k = 0; k < STEP / 16; k++)
            wgmma_hidden(sums, a + 4 * (STEP / 16 * step + k), weights + 2 * k, step + k > 0);
        wgmma_commit();
        if (step > 0) {
            wgmma_wait<1>();
            give_back(ring, before, thread);
        }
        before = ring.stage;
        ring.next();
    }
    wgmma_wait<0>();
    give_back(ring, before, thread);
#pragma unroll
    for (int n = 0; n < WIDTH / 8; n++) {
        uint32 pair = bias[4 * n];
        a[2 * n] = add_relu(pack(sums[4 * n], sums[4 * n + 1]), pair);
        a[2 * n + 1] = add_relu(pack(sums[4 * n + 2], sums[4 * n + 3]), pair);
    }
}

// The last layer, the shares and the sum of a query's rows, which lie in lanes 4 and 8 apart.
__device__ __forceinline__ void blend(const Arguments& p, int picture, const Row row[2], const uint32* a, uint32 last,
                                      const float* last_bias, int lane) {
    float sums[4];
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < WIDTH / 16; k++)
        wgmma_last(sums, a + 4 * k, descriptor(last + k / 4 * 1024) + 2 * (k % 4), k > 0);
    wgmma_commit();
    wgmma_wait<0>();
    int column = 2 * (lane & 3);
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float low = __fadd_rn(sums[2 * r], last_bias[column]), high = __fadd_rn(sums[2 * r + 1], last_bias[column + 1]);
#if CORNERS == 4
        float area = __fadd_rn(fabsf(__fmul_rn(row[r].dy, row[r].dx)), 1e-9f);
        float opposite = __shfl_xor_sync(~0u, area, 12);
        float total = __fadd_rn(area, __shfl_xor_sync(~0u, area, 4));
        total = __fadd_rn(total, __shfl_xor_sync(~0u, total, 8));
        float share = __fdiv_rn(opposite, total);
        low = __fmul_rn(low, share);
        high = __fmul_rn(high, share);
#pragma unroll
        for (int bit = 4; bit < 16; bit *= 2) {
            low = __fadd_rn(low, __shfl_xor_sync(~0u, low, bit));
            high = __fadd_rn(high, __shfl_xor_sync(~0u, high, bit));
        }
        bool writes = row[r].valid && (lane & 12) == 0;
#else
        bool writes = row[r].valid;
#endif
        float* out = p.out + (picture * p.queries + row[r].query) * OUTPUTS + column;
        if (writes && column < OUTPUTS) out[0] = low;
        if (writes && column + 1 < OUTPUTS) out[1] = high;
    }
}

// One thread of each block sends its part of every stage to the whole cluster.
__device__ __forceinline__ void produce(const Arguments& p, Ring ring, uint32 rank, int cluster, int clusters) {
    constexpr int PART = STAGE_BYTES / CLUSTER;
    for (int tile = cluster; tile < p.tiles; tile += clusters)
        for (int stage = 0; stage < LAYERS * STEPS; stage++) {
            wait_for(ring.empty + 8 * ring.stage, ring.phase ^ 1);
            expect_bytes(ring.full + 8 * ring.stage, STAGE_BYTES);
            copy_to_cluster(ring.base + ring.stage * STAGE_BYTES + rank * PART,
                            p.stages + (int64)stage * STAGE_BYTES + rank * PART, PART, ring.full + 8 * ring.stage);
            ring.next();
        }
}

__device__ __forceinline__ void consume(const Arguments& p, Ring ring, const uint8* shared, uint32 rank, int cluster,
                                        int clusters) {
    int group = (threadIdx.x >> 7) - 1, thread = threadIdx.x & 127, lane = threadIdx.x & 31;
    int first_row = 16 * (thread >> 5) + (lane >> 2);  // and the one 8 further
    const uint32* biases = (const uint32*)(shared + VECTORS_AT) + UPDATES * PAIRS + (lane & 3);
    for (int tile = cluster; tile < p.tiles; tile += clusters) {
        int picture = tile / p.picture_tiles;
        int64 first = ((int64)(tile - picture * p.picture_tiles) * CLUSTER * 2 + rank * 2 + group) * QUERIES;
        Row row[2];
        const uint8* source[2];
#pragma unroll
        for (int r = 0; r < 2; r++) source[r] = find_row(p, picture, first, first_row + 8 * r, row[r]);
        uint32 a[WIDTH / 4];
        first_layer(source, row, shared + VECTORS_AT, lane, a);
#pragma unroll 1
        for (int layer = 0; layer < LAYERS; layer++) hidden_layer(ring, biases + layer * PAIRS, thread, a);
        blend(p, picture, row, a, shared_address(shared + LAST_AT), (const float*)(shared + LAST_BIAS_AT), lane);
    }
}

extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(THREADS, 1)
    liif_decoder(const __grid_constant__ Arguments p) {
    extern __shared__ __align__(1024) uint8 raw[];
    uint8* shared = raw + (-shared_address(raw) & 1023);
    Ring ring = {shared_address(shared), shared_address(shared + BARRIERS_AT),
                 shared_address(shared + BARRIERS_AT) + 8 * STAGES, 0, 0};
    uint32 rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    for (int i = threadIdx.x; i < WIDTH; i += THREADS) ((uint4*)(shared + LAST_AT))[i] = ((const uint4*)p.last)[i];
    for (int i = threadIdx.x; i < VECTORS * WIDTH / 8; i += THREADS)
        ((uint4*)(shared + VECTORS_AT))[i] = ((const uint4*)p.vectors)[i];
    if (threadIdx.x < 8) ((float*)(shared + LAST_BIAS_AT))[threadIdx.x] = p.last_bias[threadIdx.x];
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < STAGES; stage++) {
            barrier_init(ring.full + 8 * stage, 1);
            barrier_init(ring.empty + 8 * stage, 2 * CLUSTER);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();
    cluster_barrier();
    int cluster = blockIdx.x / CLUSTER, clusters = gridDim.x / CLUSTER;
    if (threadIdx.x < 128) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
        if (threadIdx.x == 0) produce(p, ring, rank, cluster, clusters);
        __syncwarp();
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
        consume(p, ring, shared, rank, cluster, clusters);
    }
    // No block may end while another still writes to it or waits for it.
    cluster_barrier();
}
