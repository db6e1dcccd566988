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

// What one call of a kernel computes: some rows of a panel by one tile.
struct TileCall {
    const uint8_t* weights;   // the tile
    const uint8_t* prefetch;  // what to fetch meanwhile: prefetch_step bytes for each block (or column)
    int64_t prefetch_step;
    int64_t steps;         // blocks of 32 columns, or columns of a float type
    const uint8_t* panel;  // quantized rows: the panel
    int64_t row;           // first row within the panel
    int64_t rows;          // activation rows, 1 to Kernel::kMost
    const float* x;        // float rows: the first row
    int64_t x_stride;
    float* y;  // output of the first row and the tile's first output
    int64_t y_stride;
    const float* bias;      // of the tile's first output, or null
    const float* residual;  // of the first row and the tile's first output, or null
    int64_t residual_stride;
    int64_t outputs;  // 1 to 16
};

// Activations of so many bytes stay in the second level cache beside the streaming weights.
constexpr int64_t kRowBlockBytes = 384 << 10;
// How far ahead of the kernel weights are fetched when every tile is read once.
constexpr int64_t kPrefetchAhead = 4096;

// The loops around Kernel::run(const TileCall&). A tile meets all panels of a block of rows while it is in
// the nearest cache.
template <class Kernel>
void run_tiles(const MatmulTask& task, int64_t tile_begin, int64_t tile_end, int64_t row_begin,
               int64_t row_end) {
    constexpr int64_t kMost = Kernel::kMost;
    static_assert(kPanelRows % kMost == 0);
    const PackedView& w = task.w;
    const bool quantized = takes_quantized(w.type);
    const auto bytes = static_cast<int64_t>(tile_bytes(w.type, w.cols));
    const int64_t steps = quantized ? w.cols / kBlock : w.cols;
    const int64_t panel_bytes = quantized ? steps * kPanelBlockBytes : kPanelRows * w.cols * 4;
    const int64_t panels_at_once = panel_bytes < kRowBlockBytes ? kRowBlockBytes / panel_bytes : 1;

    for (int64_t block_begin = row_begin; block_begin < row_end; block_begin += panels_at_once * kPanelRows) {
        const int64_t block_end = row_end - block_begin < panels_at_once * kPanelRows
                                      ? row_end
                                      : block_begin + panels_at_once * kPanelRows;
        const int64_t last = (block_end - block_begin) % kPanelRows;
        const int64_t calls =
            (block_end - block_begin) / kPanelRows * (kPanelRows / kMost) + (last + kMost - 1) / kMost;
        for (int64_t tile = tile_begin; tile < tile_end; ++tile) {
            TileCall call;
            call.weights = w.data + tile * bytes;
            call.steps = steps;
            // Read once, a tile is fetched a little ahead of its use. Read by several calls, each of them
            // fetches a share of the next tile.
            call.prefetch = call.weights + (calls == 1 ? kPrefetchAhead : bytes);
            call.prefetch_step = (bytes + steps * calls - 1) / (steps * calls);
            const int64_t output = tile * kTileRows;
            call.outputs = w.rows - output < kTileRows ? w.rows - output : kTileRows;
            call.bias = task.bias ? task.bias + output : nullptr;
            call.x_stride = task.xf_stride;
            call.y_stride = task.y_stride;
            call.residual_stride = task.residual_stride;
            for (int64_t row = block_begin; row < block_end;) {
                // The rest of a panel is shared out evenly.
                const int64_t in_panel = row % kPanelRows;
                const int64_t left =
                    block_end - row < kPanelRows - in_panel ? block_end - row : kPanelRows - in_panel;
                const int64_t parts = (left + kMost - 1) / kMost;
                call.rows = (left + parts - 1) / parts;
                call.panel = quantized ? task.xq.data + row / kPanelRows * panel_bytes : nullptr;
                call.row = in_panel;
                call.x = quantized ? nullptr : task.xf + row * task.xf_stride;
                call.y = task.y + row * task.y_stride + output;
                call.residual = task.residual ? task.residual + row * task.residual_stride + output : nullptr;
                Kernel::run(call);
                call.prefetch += call.prefetch_step * steps;
                row += call.rows;
            }
        }
    }
}

}  // namespace

}  // namespace ollamapy::cpu
