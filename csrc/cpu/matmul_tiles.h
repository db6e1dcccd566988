// What the vector kernels of all instruction sets share: unrolling, the order of the loops and prefetching.
//
// Included by files that are compiled for more than the base instruction set. Everything here and there has
// internal linkage, and no standard library template is used: an inline function that the linker may share
// must not carry instructions that the CPU of another table's user lacks.
#pragma once

#include "cpu/packed.h"
#include "cpu/tables.h"

namespace ollamapy::cpu {

namespace {

template <int N>
struct Index {
    static constexpr int value = N;
    constexpr operator int() const { return N; }
};

// f(Index<0>{}), ..., f(Index<N - 1>{}): unrolled in the source, so that arrays indexed by it live in
// registers.
template <int N, class F>
[[gnu::always_inline]] inline void unroll(const F& f) {
    if constexpr (N > 0) {
        unroll<N - 1>(f);
        f(Index<N - 1>{});
    }
}

// Where prefetched weights go, as __builtin_prefetch counts.
constexpr int kNearestCache = 3, kSecondCache = 2;

// A block's share of prefetching: a whole block of weights when every tile is read once, else a few bytes.
template <DType T, int kCache = kNearestCache>
[[gnu::always_inline]] inline void fetch(const uint8_t* from, int64_t bytes) {
    constexpr int kLines = (tile_layout(T).block_bytes() + 63) / 64;
    if (bytes > 64 * (kLines - 1)) [[likely]] {
        unroll<kLines>([&](auto line) { __builtin_prefetch(from + 64 * line, 0, kCache); });
    } else {
        for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(from + at, 0, kCache);
    }
}

// What one call of a kernel computes: some rows of a panel by a tile, or by neighbouring tiles.
struct TileCall {
    const uint8_t* weights;  // the first tile
    int64_t tile_bytes;
    int64_t tiles;  // of neighbouring ones
    const uint8_t*
        prefetch;  // what to fetch meanwhile for each tile: prefetch_step bytes per block (or column)
    int64_t prefetch_step;
    int64_t steps;         // blocks of 32 columns, or columns of a float type
    const uint8_t* panel;  // quantized rows: the panel
    const uint8_t* wide;   // the same panel as Kernel::widen left it in the scratch
    int64_t row;           // first row within the panel
    int64_t rows;          // activation rows
    const float* x;        // float rows: the first row
    int64_t x_stride;
    float* y;  // output of the first row and the first tile's first output
    int64_t y_stride;
    const float* bias;      // of the first output, or null
    const float* residual;  // of the first row and output, or null
    int64_t residual_stride;
    int64_t outputs;  // 1 to 16 for each tile
};

// What a call ends with: its rows of the output lie far apart, and far from the core when there are many.
[[gnu::always_inline]] inline void fetch_outputs(const TileCall& call) {
    for (int64_t c = 0; c < call.rows; ++c) {
        __builtin_prefetch(call.y + c * call.y_stride, 1, 3);
        if (call.residual) __builtin_prefetch(call.residual + c * call.residual_stride, 0, 3);
    }
}

// Activations of so many bytes stay in the second level cache beside the streaming weights.
constexpr int64_t kRowBlockBytes = 384 << 10;
// How far ahead of the kernel weights are fetched when every tile is read once.
constexpr int64_t kPrefetchAhead = 4096;
constexpr int64_t kFetchingRows = 2 * kPanelRows;

// Bytes of kColumns<T> columns of a tile.
template <DType T>
constexpr int64_t kColumns = takes_quantized(T) ? kBlock * tile_layout(T).blocks : 1;
template <DType T>
constexpr int64_t kColumnsBytes = takes_quantized(T) ? tile_layout(T).super_bytes()
                                  : T == DType::F32  ? 4 * kTileRows
                                                     : 2 * kTileRows;

// Panels of quantized rows, of so many bytes each, that make a block of rows.
constexpr int64_t panels_at_once(int64_t panel_bytes) {
    return panel_bytes < kRowBlockBytes ? kRowBlockBytes / panel_bytes : 1;
}

// A kernel may read activations in another form than they are stored in: kWideBytes bytes for each block of a
// panel, made once for all tiles by widen(). This is the base of one that does not.
struct StoredRows {
    static constexpr int64_t kWideBytes = 0;
    static void widen(const uint8_t* /*panel*/, int64_t /*blocks*/, int64_t /*rows*/, uint8_t* /*out*/) {}
};
constexpr size_t wide_bytes(int64_t block_bytes, int64_t cols) {
    const int64_t panel_bytes = cols / kBlock * block_bytes;
    return static_cast<size_t>(panel_bytes == 0 ? 0 : panels_at_once(panel_bytes) * panel_bytes);
}

// How many neighbouring tiles and at most how many rows of a panel a call of a kernel takes.
struct CallShape {
    int64_t tiles;
    int64_t rows;
};

// The loops around Kernel::run(const TileCall&), a kernel for type T, in calls of Kernel::shape(rows), given
// the rows of a block. A tile meets all panels of a block of rows while it is in the nearest cache.
template <DType T, class Kernel>
void run_tiles(const MatmulTask& task, int64_t tile_begin, int64_t tile_end, int64_t row_begin,
               int64_t row_end) {
    const PackedView& w = task.w;
    constexpr bool kQuantized = takes_quantized(T);
    const int64_t bytes = w.cols / kColumns<T> * kColumnsBytes<T>;
    const int64_t steps = kQuantized ? w.cols / kBlock : w.cols;
    const int64_t panel_bytes = kQuantized ? steps * kPanelBlockBytes : kPanelRows * w.cols * 4;
    constexpr int64_t kWideBytes = Kernel::kWideBytes;
    const int64_t wide_panel_bytes = steps * kWideBytes;
    const int64_t block_rows = panels_at_once(kWideBytes ? wide_panel_bytes : panel_bytes) * kPanelRows;
    const auto least = [](int64_t a, int64_t b) { return a < b ? a : b; };

    for (int64_t block_begin = row_begin; block_begin < row_end; block_begin += block_rows) {
        const int64_t block_end = least(row_end, block_begin + block_rows);
        if constexpr (kWideBytes > 0) {
            for (int64_t row = block_begin; row < block_end; row += kPanelRows) {
                Kernel::widen(task.xq.data + row / kPanelRows * panel_bytes, steps,
                              least(block_end - row, kPanelRows),
                              task.scratch + (row - block_begin) / kPanelRows * wide_panel_bytes);
            }
        }
        const CallShape shape = Kernel::shape(block_end - block_begin);
        // What is left of a panel, in parts as equal as they come.
        const auto rows_at = [&](int64_t row) {
            const int64_t left = least(block_end - row, kPanelRows - row % kPanelRows);
            const int64_t parts = (left + shape.rows - 1) / shape.rows;
            return (left + parts - 1) / parts;
        };
        TileCall call;
        call.tile_bytes = bytes;
        call.steps = steps;
        call.x_stride = task.xf_stride;
        call.y_stride = task.y_stride;
        call.residual_stride = task.residual_stride;
        // The first rows fetch weights for all, each call its share; what those behind the first call fetch
        // is the beginning of the next tile.
        const int64_t fetching_rows = least(block_end - block_begin, kFetchingRows);
        const int64_t lead = bytes - bytes * least(rows_at(block_begin), fetching_rows) / fetching_rows;
        for (int64_t tile = tile_begin; tile < tile_end; tile += shape.tiles) {
            call.tiles = least(shape.tiles, tile_end - tile);
            call.weights = w.data + tile * bytes;
            // One stream is fetched a little ahead of its use, two a pair ahead.
            call.prefetch = call.weights + (shape.tiles == 1 ? kPrefetchAhead + lead : call.tiles * bytes);
            int64_t fetching = fetching_rows;
            const int64_t output = tile * kTileRows;
            call.outputs = least(w.rows - output, call.tiles * kTileRows);
            call.bias = task.bias ? task.bias + output : nullptr;
            for (int64_t row = block_begin; row < block_end; row += call.rows) {
                call.rows = rows_at(row);
                call.prefetch_step =
                    fetching > 0 ? (bytes * call.rows / fetching_rows + steps - 1) / steps : 0;
                call.row = row % kPanelRows;
                call.panel = kQuantized ? task.xq.data + row / kPanelRows * panel_bytes : nullptr;
                call.wide = task.scratch + (row - block_begin) / kPanelRows * wide_panel_bytes;
                call.x = kQuantized ? nullptr : task.xf + row * task.xf_stride;
                call.y = task.y + row * task.y_stride + output;
                call.residual = task.residual ? task.residual + row * task.residual_stride + output : nullptr;
                Kernel::run(call);
                call.prefetch += call.prefetch_step * steps;
                fetching -= call.rows;
            }
        }
    }
}

// Quantized<T> and Float<T> are the kernels of an instruction set.
template <template <DType> class Quantized, template <DType> class Float>
void matmul(const MatmulTask& task, int64_t tile_begin, int64_t tile_end, int64_t row_begin,
            int64_t row_end) {
    const auto run = [&](auto rows_by_tiles) {
        rows_by_tiles(task, tile_begin, tile_end, row_begin, row_end);
    };
    switch (task.w.type) {
        case DType::F32:
            return run(run_tiles<DType::F32, Float<DType::F32>>);
        case DType::F16:
            return run(run_tiles<DType::F16, Float<DType::F16>>);
        case DType::BF16:
            return run(run_tiles<DType::BF16, Float<DType::BF16>>);
        case DType::Q4_0:
            return run(run_tiles<DType::Q4_0, Quantized<DType::Q4_0>>);
        case DType::Q4_1:
            return run(run_tiles<DType::Q4_1, Quantized<DType::Q4_1>>);
        case DType::Q5_0:
            return run(run_tiles<DType::Q5_0, Quantized<DType::Q5_0>>);
        case DType::Q5_1:
            return run(run_tiles<DType::Q5_1, Quantized<DType::Q5_1>>);
        case DType::Q8_0:
            return run(run_tiles<DType::Q8_0, Quantized<DType::Q8_0>>);
        case DType::Q2_K:
            return run(run_tiles<DType::Q2_K, Quantized<DType::Q2_K>>);
        case DType::Q3_K:
            return run(run_tiles<DType::Q3_K, Quantized<DType::Q3_K>>);
        case DType::Q4_K:
            return run(run_tiles<DType::Q4_K, Quantized<DType::Q4_K>>);
        case DType::Q5_K:
            return run(run_tiles<DType::Q5_K, Quantized<DType::Q5_K>>);
        case DType::Q6_K:
            return run(run_tiles<DType::Q6_K, Quantized<DType::Q6_K>>);
    }
}

}  // namespace

}  // namespace ollamapy::cpu
