// How weights and activations lie in memory for the matrix products.
//
// Weights: tiles of 16 rows (outputs) by blocks of 32 columns, a tile's blocks one after the other, so that a
// product reads one sequential stream. A vector register holds 16 rows x 4 columns (two of 8 rows with AVX2)
// and meets one broadcast dword of activations; one layout serves every instruction set, one row and many.
//
// A block of a quantized type is, in this order (r: row in the tile, byte 4r+i of a line belongs to row r):
//   low bits   8-bit values: 8 lines of 64 bytes, line j byte 4r+i is column 4j+i (Q8_0: the int8 xor 0x80)
//              4-bit values: 4 lines, line j byte 4r+i is column 4j+i (low nibble) and 16+4j+i (high nibble)
//              2-bit values: 2 lines, line h byte 4r+i bits 2t is column 16h+4t+i
//   high bits  1 bit: one line, byte 4r+i bit j is column 4j+i
//              2 bits: 2 lines, as 2-bit values
//   scales     Q4_0 Q5_0 Q8_0: d[16] f16;  Q4_1 Q5_1: d[16], m[16] f16
//              Q4_K Q5_K: sc[16], m[16] bytes (6-bit values);  Q2_K: byte 2r+h is sc | m << 4 of columns
//              16h..16h+15 Q3_K Q6_K: byte 2r+h is the int8 scale of columns 16h..16h+15
// In K types every 8 blocks (256 columns) are preceded by a header: d[16] f16, and dmin[16] f16 in Q2_K Q4_K
// Q5_K. A tile of a float type is [cols][16] values of the type.
//
// The last tile is padded with zero rows. Sizes: as in the file, but Q3_K +3.6 %, Q4_K +2.8 %, Q5_K +2.3 %.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/kernels.h"
#include "gguf/dtype.h"

namespace ollamapy::cpu {

struct TileLayout {
    int32_t low_bytes;  // per block of 16 rows x 32 columns
    int32_t high_bytes;
    int32_t scale_bytes;
    int32_t header_bytes;  // per super-block, before its first block
    int32_t blocks;        // blocks per super-block
    int32_t high_shift;    // the high bits' place in the value
    int32_t offset;        // what is subtracted from the stored unsigned value: a power of two, or 0
    bool has_min;          // a minimum is added to (Q4_1, Q5_1) or subtracted from d * value
    bool sub_scales;       // integer scales for each 16 columns

    constexpr int32_t block_bytes() const { return low_bytes + high_bytes + scale_bytes; }
    constexpr int32_t super_bytes() const { return header_bytes + blocks * block_bytes(); }
};

// The layout of a quantized type. Not for float types.
constexpr TileLayout tile_layout(DType type) {
    switch (type) {
        case DType::Q4_0:
            return {256, 0, 32, 0, 1, 0, 8, false, false};
        case DType::Q4_1:
            return {256, 0, 64, 0, 1, 0, 0, true, false};
        case DType::Q5_0:
            return {256, 64, 32, 0, 1, 4, 16, false, false};
        case DType::Q5_1:
            return {256, 64, 64, 0, 1, 4, 0, true, false};
        case DType::Q8_0:
            return {512, 0, 32, 0, 1, 0, 128, false, false};
        case DType::Q2_K:
            return {128, 0, 32, 64, 8, 0, 0, true, true};
        case DType::Q3_K:
            return {128, 64, 32, 32, 8, 2, 4, false, true};
        case DType::Q4_K:
            return {256, 0, 32, 64, 8, 0, 0, true, false};
        case DType::Q5_K:
            return {256, 64, 32, 64, 8, 4, 0, true, false};
        case DType::Q6_K:
            return {256, 128, 32, 32, 8, 4, 32, false, true};
        default:
            return {};
    }
}

// Bytes of one tile: 16 rows of cols columns. cols is a multiple of the type's block size.
constexpr size_t tile_bytes(DType type, int64_t cols) {
    if (type == DType::F32) return static_cast<size_t>(cols) * kTileRows * 4;
    if (type == DType::F16 || type == DType::BF16) return static_cast<size_t>(cols) * kTileRows * 2;
    const TileLayout layout = tile_layout(type);
    return static_cast<size_t>(cols / (kBlock * layout.blocks)) * static_cast<size_t>(layout.super_bytes());
}

// Bytes of a packed matrix, its last tile padded to 16 rows.
constexpr size_t packed_bytes(DType type, int64_t rows, int64_t cols) {
    return static_cast<size_t>((rows + kTileRows - 1) / kTileRows) * tile_bytes(type, cols);
}

// Repack rows [first_row, first_row + n_rows) of a matrix from src, which holds just these rows as they lie
// in the file, into packed, the start of the whole packed matrix. first_row is a multiple of 16; when n_rows
// is not, the rows up to the end of the tile become zero. Calls for different tiles may run at the same time.
void pack_rows(DType type, int64_t cols, const uint8_t* src, int64_t first_row, int64_t n_rows,
               uint8_t* packed);

// One row as f32, out[w.cols], bit for bit what dequantize() makes of the row in the file.
void unpack_row(const PackedView& w, int64_t row, float* out);

// One row of a packed block. A value is d * (q - offset) + m, or (d * scale[h]) * (q - offset) - m * min[h]
// where the type has integer scales for each half h of the block.
struct BlockRow {
    uint8_t q[kBlock];
    float d;
    float m;
    int32_t scale[2];
    int32_t min[2];
};

// Row r of block number block (of 32 columns) of a tile of a quantized type.
void read_block_row(DType type, const uint8_t* tile, int64_t block, int64_t r, BlockRow* out);

// ---- Activations ---------------------------------------------------------------------------------

// Rows are quantized in panels of kPanelRows. A panel holds its blocks one after the other; a block holds,
// for c in [0, kPanelRows): 32 int8 each, in [-127, 127]; then the f32 scales; the f32 scale * sum; for
// each half h of the block pairs of int16: the sums of its columns k with k % 4 < 2 and of the others (what
// an int16 lane of a product of bytes adds up); and the int32 -sum.
//
// Per block: scale = max|x| / 127, rounded to the 11 bits of an f16 (of any exponent), and q =
// round-half-even(x * (127 / max|x|)): the integers and scales of ggml's Q8_0 and Q8_1 blocks, so that our
// rounding is Ollama's where the formats meet. A block whose max|x| is below
// 2^-100 becomes zero (127 / max|x| could overflow); one with an infinity or a NaN becomes scale NaN, so that
// its products are NaN.
constexpr int64_t kPanelRows = 12;
constexpr int64_t kScaleAt = kPanelRows * kBlock;  // byte offsets in a block of a panel
constexpr int64_t kScaledSumAt = kScaleAt + kPanelRows * 4;
constexpr int64_t kPairSumsAt = kScaledSumAt + kPanelRows * 4;  // [2][kPanelRows] pairs of int16
constexpr int64_t kNegatedSumAt = kPairSumsAt + kPanelRows * 8;
constexpr int64_t kPanelBlockBytes = kNegatedSumAt + kPanelRows * 4;
// The panel's block number block that holds a row.
static inline uint8_t* block_of_row(const QuantizedRows& rows, int64_t row, int64_t block) {
    return rows.data + (row / kPanelRows * (rows.cols / kBlock) + block) * kPanelBlockBytes;
}
constexpr uint32_t kZeroBelow = 0x0d800000;  // bits of 2^-100
constexpr uint32_t kInfinity = 0x7f800000;
constexpr uint32_t kQuietNan = 0x7fc00000;

// A positive finite f32 to the nearest with the 11 bits of an f16, halves to even.
static inline float round_scale(float scale) {
    uint32_t bits;
    __builtin_memcpy(&bits, &scale, 4);
    bits = (bits + 0xfff + (bits >> 13 & 1)) & ~0x1fffu;
    __builtin_memcpy(&scale, &bits, 4);
    return scale;
}

}  // namespace ollamapy::cpu
