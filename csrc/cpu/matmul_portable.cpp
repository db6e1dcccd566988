// Matrix products in plain C++: the reference that every other table must equal bit for bit, and the
// fallback.
//
// The arithmetic of one output, for blocks of 32 columns ascending, with s the activation block's scale:
//   dot = sum of w_int * q in int32, exact: |w_int| <= 128 and |q| <= 127 give at most 32 * 128 * 127 < 2^20;
//   with
//         integer scales (Q2_K, Q3_K, Q6_K) dot = scale[0] * dot of columns 0..15 + scale[1] * dot of 16..31,
//         at most 128 * 2^19 * 2 < 2^27. Kernels may sum stored values without their offset: at most 4 times
//         as much.
//   acc = fma(d * s, float(dot), acc)
//   acc = fma(m, s * float(sum of q), acc)                          Q4_1, Q5_1; Q4_K and Q5_K with m = -(dmin
//   * min) acc = fma(-(dmin * s), float(min[0] * sum[0] + min[1] * sum[1]), acc)   Q2_K
// and for float types acc = fma(w, x, acc) for k ascending. Then + bias, then + residual.
#include <cmath>
#include <cstring>

#include "cpu/packed.h"
#include "cpu/tables.h"
#include "gguf/dequantize.h"

namespace ollamapy::cpu {

namespace {

void finish(const MatmulTask& task, int64_t tile, int64_t row, const float* acc) {
    const int64_t first = tile * kTileRows;
    const int64_t count = task.w.rows - first < kTileRows ? task.w.rows - first : kTileRows;
    float* y = task.y + row * task.y_stride + first;
    for (int64_t r = 0; r < count; ++r) {
        float value = acc[r];
        if (task.bias) value += task.bias[first + r];
        if (task.residual) value += task.residual[row * task.residual_stride + first + r];
        y[r] = value;
    }
}

template <class T>
T load(const uint8_t* p) {
    T v;
    std::memcpy(&v, p, sizeof(T));
    return v;
}

int32_t dot16(const uint8_t* w, const int8_t* q) {
    int32_t sum = 0;
    for (int k = 0; k < 16; ++k) sum += static_cast<int32_t>(w[k]) * static_cast<int32_t>(q[k]);
    return sum;
}

// One panel (rows [row, row + n), n <= kPanelRows, row a multiple of kPanelRows) by one tile.
void quantized_tile(const MatmulTask& task, int64_t tile, int64_t row, int64_t n) {
    const PackedView& w = task.w;
    const TileLayout layout = tile_layout(w.type);
    const int64_t blocks = w.cols / kBlock;
    const uint8_t* weights = w.data + static_cast<size_t>(tile) * tile_bytes(w.type, w.cols);
    const uint8_t* panel = task.xq.data + row / kPanelRows * blocks * kPanelBlockBytes;
    float acc[kPanelRows][kTileRows] = {};
    BlockRow block_rows[kTileRows];
    for (int64_t block = 0; block < blocks; ++block, panel += kPanelBlockBytes) {
        for (int64_t r = 0; r < kTileRows; ++r) read_block_row(w.type, weights, block, r, &block_rows[r]);
        for (int64_t c = 0; c < n; ++c) {
            int8_t q[kBlock];
            std::memcpy(q, panel + c * kBlock, sizeof(q));
            const auto scale = load<float>(panel + kScaleAt + 4 * c);
            const auto scaled_sum = load<float>(panel + kScaledSumAt + 4 * c);
            int32_t sums[2];
            for (int h = 0; h < 2; ++h) {
                const uint8_t* pair = panel + kPairSumsAt + 4 * (h * kPanelRows + c);
                sums[h] = load<int16_t>(pair) + load<int16_t>(pair + 2);
            }
            for (int64_t r = 0; r < kTileRows; ++r) {
                const BlockRow& b = block_rows[r];
                const int32_t dot0 = dot16(b.q, q) - layout.offset * sums[0];
                const int32_t dot1 = dot16(b.q + 16, q + 16) - layout.offset * sums[1];
                const int32_t dot = layout.sub_scales ? b.scale[0] * dot0 + b.scale[1] * dot1 : dot0 + dot1;
                float& sum = acc[c][r];
                sum = std::fma(b.d * scale, static_cast<float>(dot), sum);
                if (!layout.has_min) continue;
                if (layout.sub_scales) {
                    const int32_t min = b.min[0] * sums[0] + b.min[1] * sums[1];
                    sum = std::fma(-(b.m * scale), static_cast<float>(min), sum);
                } else {
                    sum = std::fma(b.m, scaled_sum, sum);
                }
            }
        }
    }
    for (int64_t c = 0; c < n; ++c) finish(task, tile, row + c, acc[c]);
}

float weight(DType type, const uint8_t* tile, int64_t index) {
    if (type == DType::F32) return load<float>(tile + 4 * index);
    const auto half = load<uint16_t>(tile + 2 * index);
    return type == DType::F16 ? f16_to_f32(half) : bf16_to_f32(half);
}

void float_tile(const MatmulTask& task, int64_t tile, int64_t row, int64_t n) {
    const PackedView& w = task.w;
    const uint8_t* weights = w.data + static_cast<size_t>(tile) * tile_bytes(w.type, w.cols);
    float acc[kPanelRows][kTileRows] = {};
    for (int64_t k = 0; k < w.cols; ++k) {
        float values[kTileRows];
        for (int64_t r = 0; r < kTileRows; ++r) values[r] = weight(w.type, weights, k * kTileRows + r);
        for (int64_t c = 0; c < n; ++c) {
            const float x = task.xf[(row + c) * task.xf_stride + k];
            for (int64_t r = 0; r < kTileRows; ++r) acc[c][r] = std::fma(values[r], x, acc[c][r]);
        }
    }
    for (int64_t c = 0; c < n; ++c) finish(task, tile, row + c, acc[c]);
}

void matmul(const MatmulTask& task, int64_t tile_begin, int64_t tile_end, int64_t row_begin,
            int64_t row_end) {
    for (int64_t tile = tile_begin; tile < tile_end; ++tile) {
        for (int64_t row = row_begin; row < row_end; row += kPanelRows) {
            const int64_t n = row_end - row < kPanelRows ? row_end - row : kPanelRows;
            if (takes_quantized(task.w.type)) {
                quantized_tile(task, tile, row, n);
            } else {
                float_tile(task, tile, row, n);
            }
        }
    }
}

void quantize_row(const float* x, const QuantizedRows& out, int64_t row, int64_t block_begin,
                  int64_t block_end) {
    const int64_t c = row % kPanelRows;
    uint8_t* panel = block_of_row(out, row, block_begin);
    for (int64_t block = block_begin; block < block_end; ++block, panel += kPanelBlockBytes, x += kBlock) {
        // The bits of |x| order as integers: NaN above infinity above the finite.
        uint32_t max_bits = 0;
        for (int k = 0; k < kBlock; ++k) {
            uint32_t bits;
            std::memcpy(&bits, x + k, 4);
            bits &= 0x7fffffff;
            max_bits = bits > max_bits ? bits : max_bits;
        }
        float scale = 0.0f;
        int8_t q[kBlock] = {};
        int16_t sums[2][2] = {};
        if (max_bits >= kInfinity) {
            std::memcpy(&scale, &kQuietNan, 4);
        } else if (max_bits >= kZeroBelow) {
            float max;
            std::memcpy(&max, &max_bits, 4);
            scale = round_scale(max / 127.0f);
            const float inverse = 127.0f / max;
            for (int k = 0; k < kBlock; ++k) {
                q[k] = static_cast<int8_t>(std::nearbyint(x[k] * inverse));
                sums[k / 16][k % 4 / 2] = static_cast<int16_t>(sums[k / 16][k % 4 / 2] + q[k]);
            }
        }
        const int32_t sum = sums[0][0] + sums[0][1] + sums[1][0] + sums[1][1];
        const int32_t negated_sum = -sum;
        const float scaled_sum = scale * static_cast<float>(sum);
        std::memcpy(panel + c * kBlock, q, sizeof(q));
        std::memcpy(panel + kScaleAt + 4 * c, &scale, 4);
        std::memcpy(panel + kScaledSumAt + 4 * c, &scaled_sum, 4);
        for (int h = 0; h < 2; ++h) std::memcpy(panel + kPairSumsAt + 4 * (h * kPanelRows + c), sums[h], 4);
        std::memcpy(panel + kNegatedSumAt + 4 * c, &negated_sum, 4);
    }
}

}  // namespace

const MatmulKernels& matmul_portable() {
    static const MatmulKernels table = {"portable", matmul, quantize_row,
                                        [](DType, int64_t) { return size_t{0}; }};
    return table;
}

}  // namespace ollamapy::cpu
