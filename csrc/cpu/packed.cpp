// Repacking of weights from the file's blocks into tiles. Source of the block formats: the `gguf` package
// (quants.py) and the GGUF documentation; the tests compare with both.
#include "cpu/packed.h"

#include <cstring>

#include "gguf/dequantize.h"

namespace ollamapy::cpu {

namespace {

// Four values of a block's row, one a byte, are handled at once as a dword.
constexpr int kDwords = kBlock / 4;
constexpr int64_t kLine = kTileRows * 4;

uint32_t load32(const uint8_t* p) {
    uint32_t v;
    std::memcpy(&v, p, 4);
    return v;
}

uint16_t load16(const uint8_t* p) {
    uint16_t v;
    std::memcpy(&v, p, 2);
    return v;
}

void store32(uint8_t* p, uint32_t v) {
    std::memcpy(p, &v, 4);
}

// What one block of the file gives to 32 columns of a row: values without their offset, and the scale bytes
// that belong to these columns.
struct SourceBlock {
    uint32_t q[kDwords];
    uint8_t scale[2];
    uint8_t min[2];
};

// Nibbles as in Q4_0 .. Q5_1: byte i holds columns i and 16 + i.
void read_nibbles(const uint8_t* qs, uint32_t* q) {
    for (int j = 0; j < 4; ++j) {
        const uint32_t v = load32(qs + 4 * j);
        q[j] = v & 0x0f0f0f0f;
        q[4 + j] = (v >> 4) & 0x0f0f0f0f;
    }
}

// The fifth bits as in Q5_0: bit k of qh is column k. The product spreads four bits over four bytes.
void add_fifth_bits(const uint8_t* qh, uint32_t* q) {
    const uint32_t bits = load32(qh);
    for (int j = 0; j < kDwords; ++j) {
        q[j] |= ((((bits >> (4 * j)) & 15) * 0x00204081u) & 0x01010101u) << 4;
    }
}

// The 6-bit scale and minimum of block b as in Q4_K.
void read_k_scales(const uint8_t* s, int b, SourceBlock* out) {
    if (b < 4) {
        out->scale[0] = s[b] & 63;
        out->min[0] = s[b + 4] & 63;
    } else {
        out->scale[0] = static_cast<uint8_t>((s[b + 4] & 15) | (s[b - 4] >> 6) << 4);
        out->min[0] = static_cast<uint8_t>((s[b + 4] >> 4) | (s[b] >> 6) << 4);
    }
}

// The 6-bit signed scale number i of a Q3_K block.
uint8_t read_q3_scale(const uint8_t* s, int i) {
    const int low = i < 8 ? s[i] & 15 : s[i - 8] >> 4;
    const int high = (s[8 + i % 4] >> (2 * (i / 4))) & 3;
    return static_cast<uint8_t>((low | high << 4) - 32);
}

// Block b (32 columns) of the file's block at src.
template <DType T>
void read_source(const uint8_t* src, int b, SourceBlock* out) {
    uint32_t* q = out->q;
    if constexpr (T == DType::Q4_0) {
        read_nibbles(src + 2, q);
    } else if constexpr (T == DType::Q4_1) {
        read_nibbles(src + 4, q);
    } else if constexpr (T == DType::Q5_0) {
        read_nibbles(src + 6, q);
        add_fifth_bits(src + 2, q);
    } else if constexpr (T == DType::Q5_1) {
        read_nibbles(src + 8, q);
        add_fifth_bits(src + 4, q);
    } else if constexpr (T == DType::Q8_0) {
        for (int j = 0; j < kDwords; ++j) q[j] = load32(src + 2 + 4 * j) ^ 0x80808080u;
    } else if constexpr (T == DType::Q2_K) {
        const uint8_t* qs = src + 16 + 32 * (b / 4);
        for (int j = 0; j < kDwords; ++j) q[j] = (load32(qs + 4 * j) >> (2 * (b % 4))) & 0x03030303u;
        for (int h = 0; h < 2; ++h) out->scale[h] = src[2 * b + h];
    } else if constexpr (T == DType::Q3_K) {
        const uint8_t* qs = src + 32 + 32 * (b / 4);
        for (int j = 0; j < kDwords; ++j) {
            q[j] = ((load32(qs + 4 * j) >> (2 * (b % 4))) & 0x03030303u) |
                   ((load32(src + 4 * j) >> b) & 0x01010101u) << 2;
        }
        for (int h = 0; h < 2; ++h) out->scale[h] = read_q3_scale(src + 96, 2 * b + h);
    } else if constexpr (T == DType::Q4_K) {
        const uint8_t* qs = src + 16 + 32 * (b / 2);
        for (int j = 0; j < kDwords; ++j) q[j] = (load32(qs + 4 * j) >> (4 * (b % 2))) & 0x0f0f0f0fu;
        read_k_scales(src + 4, b, out);
    } else if constexpr (T == DType::Q5_K) {
        const uint8_t* qs = src + 48 + 32 * (b / 2);
        for (int j = 0; j < kDwords; ++j) {
            q[j] = ((load32(qs + 4 * j) >> (4 * (b % 2))) & 0x0f0f0f0fu) |
                   ((load32(src + 16 + 4 * j) >> b) & 0x01010101u) << 4;
        }
        read_k_scales(src + 4, b, out);
    } else {
        static_assert(T == DType::Q6_K);
        const uint8_t* low = src + 64 * (b / 4) + 32 * (b % 2);
        const uint8_t* high = src + 128 + 32 * (b / 4);
        for (int j = 0; j < kDwords; ++j) {
            q[j] = ((load32(low + 4 * j) >> (4 * (b % 4 / 2))) & 0x0f0f0f0fu) |
                   ((load32(high + 4 * j) >> (2 * (b % 4))) & 0x03030303u) << 4;
        }
        for (int h = 0; h < 2; ++h) out->scale[h] = src[192 + 2 * b + h];
    }
}

// Where the f16 d and the second f16 (m or dmin) lie in the file's block; -1: there is none.
template <DType T>
constexpr int kFileD = T == DType::Q2_K   ? 80
                       : T == DType::Q3_K ? 108
                       : T == DType::Q6_K ? 208
                                          : 0;
template <DType T>
constexpr int kFileM = !tile_layout(T).has_min ? -1
                       : T == DType::Q2_K      ? 82
                                               : 2;

// The dwords of one row into the lines of a packed block.
template <DType T>
void write_values(const uint32_t* q, int64_t r, uint8_t* block) {
    constexpr TileLayout kLayout = tile_layout(T);
    uint8_t* at = block + 4 * r;
    if constexpr (kLayout.low_bytes == 512) {
        for (int j = 0; j < kDwords; ++j) store32(at + kLine * j, q[j]);
    } else if constexpr (kLayout.low_bytes == 256) {
        for (int j = 0; j < 4; ++j) {
            store32(at + kLine * j, (q[j] & 0x0f0f0f0fu) | (q[4 + j] & 0x0f0f0f0fu) << 4);
        }
    } else {
        for (int h = 0; h < 2; ++h) {
            uint32_t line = 0;
            for (int t = 0; t < 4; ++t) line |= (q[4 * h + t] & 0x03030303u) << (2 * t);
            store32(at + kLine * h, line);
        }
    }
    at += kLayout.low_bytes;
    if constexpr (kLayout.high_bytes == 64) {
        uint32_t line = 0;
        for (int j = 0; j < kDwords; ++j) line |= ((q[j] >> kLayout.high_shift) & 0x01010101u) << j;
        store32(at, line);
    } else if constexpr (kLayout.high_bytes == 128) {
        for (int h = 0; h < 2; ++h) {
            uint32_t line = 0;
            for (int t = 0; t < 4; ++t)
                line |= ((q[4 * h + t] >> kLayout.high_shift) & 0x03030303u) << (2 * t);
            store32(at + kLine * h, line);
        }
    }
}

template <DType T>
void read_values(const uint8_t* block, int64_t r, uint32_t* q) {
    constexpr TileLayout kLayout = tile_layout(T);
    const uint8_t* at = block + 4 * r;
    for (int j = 0; j < kDwords; ++j) {
        if constexpr (kLayout.low_bytes == 512) {
            q[j] = load32(at + kLine * j);
        } else if constexpr (kLayout.low_bytes == 256) {
            q[j] = (load32(at + kLine * (j % 4)) >> (4 * (j / 4))) & 0x0f0f0f0fu;
        } else {
            q[j] = (load32(at + kLine * (j / 4)) >> (2 * (j % 4))) & 0x03030303u;
        }
    }
    at += kLayout.low_bytes;
    for (int j = 0; j < kDwords; ++j) {
        if constexpr (kLayout.high_bytes == 64) {
            q[j] |= ((load32(at) >> j) & 0x01010101u) << kLayout.high_shift;
        } else if constexpr (kLayout.high_bytes == 128) {
            q[j] |= ((load32(at + kLine * (j / 4)) >> (2 * (j % 4))) & 0x03030303u) << kLayout.high_shift;
        }
    }
}

// n_rows (1 to 16) rows into one tile. A missing row is an all-zero block of the file: its d and m are zero.
template <DType T>
void pack_tile(int64_t cols, const uint8_t* src, int64_t n_rows, uint8_t* tile) {
    constexpr TileLayout kLayout = tile_layout(T);
    constexpr DTypeInfo kInfo = dtype_info(T);
    static const uint8_t zero[kInfo.block_bytes] = {};
    const int64_t supers = cols / kInfo.block_size;
    const int64_t row_bytes = supers * kInfo.block_bytes;
    for (int64_t s = 0; s < supers; ++s, tile += kLayout.super_bytes()) {
        for (int64_t r = 0; r < kTileRows; ++r) {
            const uint8_t* from = r < n_rows ? src + r * row_bytes + s * kInfo.block_bytes : zero;
            uint8_t* floats = kLayout.header_bytes ? tile : tile + kLayout.low_bytes + kLayout.high_bytes;
            std::memcpy(floats + 2 * r, from + kFileD<T>, 2);
            if constexpr (kFileM<T> >= 0) std::memcpy(floats + 2 * kTileRows + 2 * r, from + kFileM<T>, 2);
            uint8_t* block = tile + kLayout.header_bytes;
            for (int b = 0; b < kLayout.blocks; ++b, block += kLayout.block_bytes()) {
                SourceBlock values;
                read_source<T>(from, b, &values);
                write_values<T>(values.q, r, block);
                uint8_t* scales = block + kLayout.low_bytes + kLayout.high_bytes;
                if constexpr (kLayout.sub_scales) {
                    scales[2 * r] = values.scale[0];
                    scales[2 * r + 1] = values.scale[1];
                } else if constexpr (kLayout.header_bytes > 0) {
                    scales[r] = values.scale[0];
                    scales[kTileRows + r] = values.min[0];
                }
            }
        }
    }
}

template <class Word>
void pack_float_tile(int64_t cols, const uint8_t* src, int64_t n_rows, uint8_t* tile) {
    for (int64_t k = 0; k < cols; ++k) {
        for (int64_t r = 0; r < kTileRows; ++r) {
            Word word = 0;
            if (r < n_rows)
                std::memcpy(&word, src + (r * cols + k) * static_cast<int64_t>(sizeof(Word)), sizeof(Word));
            std::memcpy(tile + (k * kTileRows + r) * static_cast<int64_t>(sizeof(Word)), &word, sizeof(Word));
        }
    }
}

template <DType T>
void read_row(const uint8_t* tile, int64_t block, int64_t r, BlockRow* out) {
    constexpr TileLayout kLayout = tile_layout(T);
    const uint8_t* super = tile + (block / kLayout.blocks) * kLayout.super_bytes();
    const uint8_t* at = super + kLayout.header_bytes + (block % kLayout.blocks) * kLayout.block_bytes();
    uint32_t q[kDwords];
    read_values<T>(at, r, q);
    std::memcpy(out->q, q, sizeof(q));

    const uint8_t* scales = at + kLayout.low_bytes + kLayout.high_bytes;
    const uint8_t* floats = kLayout.header_bytes ? super : scales;
    out->d = f16_to_f32(load16(floats + 2 * r));
    out->m = kLayout.has_min ? f16_to_f32(load16(floats + 2 * kTileRows + 2 * r)) : 0.0f;
    if constexpr (T == DType::Q4_K || T == DType::Q5_K) {
        out->d *= static_cast<float>(scales[r]);
        out->m = -(out->m * static_cast<float>(scales[kTileRows + r]));
    }
    for (int h = 0; h < 2; ++h) {
        const uint8_t scale = kLayout.sub_scales ? scales[2 * r + h] : 0;
        out->scale[h] = T == DType::Q2_K ? scale & 15 : static_cast<int8_t>(scale);
        out->min[h] = T == DType::Q2_K ? scale >> 4 : 0;
    }
}

template <DType T>
void unpack(const uint8_t* tile, int64_t cols, int64_t r, float* out) {
    constexpr TileLayout kLayout = tile_layout(T);
    BlockRow row;
    for (int64_t block = 0; block < cols / kBlock; ++block, out += kBlock) {
        read_row<T>(tile, block, r, &row);
        for (int k = 0; k < kBlock; ++k) {
            const auto value = static_cast<float>(static_cast<int>(row.q[k]) - kLayout.offset);
            if constexpr (T == DType::Q2_K) {
                const float d = row.d * static_cast<float>(row.scale[k / 16]);
                out[k] = d * value - row.m * static_cast<float>(row.min[k / 16]);
            } else if constexpr (kLayout.sub_scales) {
                out[k] = row.d * static_cast<float>(row.scale[k / 16]) * value;
            } else if constexpr (kLayout.has_min) {
                out[k] = row.d * value + row.m;
            } else {
                out[k] = row.d * value;
            }
        }
    }
}

}  // namespace

void pack_rows(DType type, int64_t cols, const uint8_t* src, int64_t first_row, int64_t n_rows,
               uint8_t* packed) {
    const auto pack = [&](auto&& one_tile, size_t row_bytes) {
        uint8_t* tile = packed + static_cast<size_t>(first_row / kTileRows) * tile_bytes(type, cols);
        for (int64_t row = 0; row < n_rows; row += kTileRows, tile += tile_bytes(type, cols)) {
            const int64_t rows = n_rows - row < kTileRows ? n_rows - row : kTileRows;
            one_tile(cols, src + static_cast<size_t>(row) * row_bytes, rows, tile);
        }
    };
    const DTypeInfo info = dtype_info(type);
    const size_t row_bytes = static_cast<size_t>(cols / info.block_size) * info.block_bytes;
    switch (type) {
        case DType::F32:
            return pack(pack_float_tile<uint32_t>, row_bytes);
        case DType::F16:
        case DType::BF16:
            return pack(pack_float_tile<uint16_t>, row_bytes);
        case DType::Q4_0:
            return pack(pack_tile<DType::Q4_0>, row_bytes);
        case DType::Q4_1:
            return pack(pack_tile<DType::Q4_1>, row_bytes);
        case DType::Q5_0:
            return pack(pack_tile<DType::Q5_0>, row_bytes);
        case DType::Q5_1:
            return pack(pack_tile<DType::Q5_1>, row_bytes);
        case DType::Q8_0:
            return pack(pack_tile<DType::Q8_0>, row_bytes);
        case DType::Q2_K:
            return pack(pack_tile<DType::Q2_K>, row_bytes);
        case DType::Q3_K:
            return pack(pack_tile<DType::Q3_K>, row_bytes);
        case DType::Q4_K:
            return pack(pack_tile<DType::Q4_K>, row_bytes);
        case DType::Q5_K:
            return pack(pack_tile<DType::Q5_K>, row_bytes);
        case DType::Q6_K:
            return pack(pack_tile<DType::Q6_K>, row_bytes);
    }
}

void read_block_row(DType type, const uint8_t* tile, int64_t block, int64_t r, BlockRow* out) {
    switch (type) {
        case DType::Q4_0:
            return read_row<DType::Q4_0>(tile, block, r, out);
        case DType::Q4_1:
            return read_row<DType::Q4_1>(tile, block, r, out);
        case DType::Q5_0:
            return read_row<DType::Q5_0>(tile, block, r, out);
        case DType::Q5_1:
            return read_row<DType::Q5_1>(tile, block, r, out);
        case DType::Q8_0:
            return read_row<DType::Q8_0>(tile, block, r, out);
        case DType::Q2_K:
            return read_row<DType::Q2_K>(tile, block, r, out);
        case DType::Q3_K:
            return read_row<DType::Q3_K>(tile, block, r, out);
        case DType::Q4_K:
            return read_row<DType::Q4_K>(tile, block, r, out);
        case DType::Q5_K:
            return read_row<DType::Q5_K>(tile, block, r, out);
        case DType::Q6_K:
            return read_row<DType::Q6_K>(tile, block, r, out);
        default:
            return;
    }
}

void unpack_row(const PackedView& w, int64_t row, float* out) {
    const uint8_t* tile = w.data + static_cast<size_t>(row / kTileRows) * tile_bytes(w.type, w.cols);
    const int64_t r = row % kTileRows;
    switch (w.type) {
        case DType::F32:
            for (int64_t k = 0; k < w.cols; ++k) std::memcpy(out + k, tile + (k * kTileRows + r) * 4, 4);
            return;
        case DType::F16:
            for (int64_t k = 0; k < w.cols; ++k) out[k] = f16_to_f32(load16(tile + (k * kTileRows + r) * 2));
            return;
        case DType::BF16:
            for (int64_t k = 0; k < w.cols; ++k) out[k] = bf16_to_f32(load16(tile + (k * kTileRows + r) * 2));
            return;
        case DType::Q4_0:
            return unpack<DType::Q4_0>(tile, w.cols, r, out);
        case DType::Q4_1:
            return unpack<DType::Q4_1>(tile, w.cols, r, out);
        case DType::Q5_0:
            return unpack<DType::Q5_0>(tile, w.cols, r, out);
        case DType::Q5_1:
            return unpack<DType::Q5_1>(tile, w.cols, r, out);
        case DType::Q8_0:
            return unpack<DType::Q8_0>(tile, w.cols, r, out);
        case DType::Q2_K:
            return unpack<DType::Q2_K>(tile, w.cols, r, out);
        case DType::Q3_K:
            return unpack<DType::Q3_K>(tile, w.cols, r, out);
        case DType::Q4_K:
            return unpack<DType::Q4_K>(tile, w.cols, r, out);
        case DType::Q5_K:
            return unpack<DType::Q5_K>(tile, w.cols, r, out);
        case DType::Q6_K:
            return unpack<DType::Q6_K>(tile, w.cols, r, out);
    }
}

size_t quantized_bytes(int64_t rows, int64_t cols) {
    return static_cast<size_t>((rows + kPanelRows - 1) / kPanelRows) * static_cast<size_t>(cols / kBlock) *
           static_cast<size_t>(kPanelBlockBytes);
}

}  // namespace ollamapy::cpu
