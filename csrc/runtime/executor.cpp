#include "runtime/executor.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "cpu/packed.h"

namespace ollamapy {
namespace {

constexpr int64_t kChunksPerThread = 6;                // so that a thread that was held up is not waited for
constexpr int64_t kMinTileBytes = int64_t{48} << 10;   // weight bytes worth a claim of their own
constexpr int64_t kMatmulRows = 20 * cpu::kPanelRows;  // rows of a product in one chunk at most

// Floats that a thread has for gate, and for up, of some rows and outputs: they stay in the second cache.
constexpr int64_t kGatedOutputs = 64;
constexpr int64_t kGatedFloats = kMatmulRows * kGatedOutputs;

constexpr size_t kLookAhead = 4;                    // instructions to look for the next product
constexpr int64_t kAheadStep = int64_t{16} << 10;   // its bytes to prefetch before a barrier
constexpr int64_t kMostAhead = int64_t{128} << 10;  // in all: they must still lie in the second cache

constexpr int64_t kUnitsPerThread = 2;  // attention tiles below which segments are shared out
constexpr int64_t kSerialAttention =
    64 * 1024;  // multiplications that one thread does before the other arrives

int64_t ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

int64_t now_ns() {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(
               std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

}  // namespace

int64_t Executor::rows_of(Rows rows) const {
    return rows == Rows::kTokens ? batch_->rows() : static_cast<int64_t>(batch_->outputs.size());
}

float* Executor::floats(int buffer) const {
    return reinterpret_cast<float*>(arena_ + program_->buffers[buffer].offset);
}

cpu::QuantizedRows Executor::quantized(int buffer) const {
    const Buffer& place = program_->buffers[buffer];
    return {arena_ + place.offset, rows_of(place.rows), place.width};
}

cpu::QuantizedRows Executor::private_rows(int64_t width, int thread) const {
    return {private_rows_[thread].as<>(), kPrivateRows, width};
}

cpu::KvLayer Executor::kv_layer(int group, int layer) const {
    const LayerGroup::Layer& place = program_->groups[group].layers[layer];
    return {cache_->pool(group),
            cache_->stride(group),
            place.k_offset,
            place.v_offset,
            static_cast<int32_t>(place.n_kv_heads),
            static_cast<int32_t>(place.head_dim),
            static_cast<int32_t>(place.v_dim),
            program_->groups[group].type};
}

const float* Executor::run(const Program& program, const KVCache& cache, const Batch& batch) {
    program_ = &program;
    cache_ = &cache;
    batch_ = &batch;
    Device& device = *program.device;
    isa_ = &device.isa();
    arena_ = device.arena(program.arena_bytes);
    ThreadPool& pool = device.pool();
    threads_ = pool.threads();
    row_scratch_.resize(threads_);
    attention_scratch_.resize(threads_);
    matmul_scratch_.resize(threads_);
    private_rows_.resize(threads_);
    gated_.resize(threads_);
    const auto grow = [](AlignedBuffer& buffer, size_t bytes) {
        if (buffer.bytes() < bytes) buffer = AlignedBuffer(bytes);
    };
    for (int i = 0; i < threads_; ++i) {
        if (static_cast<int64_t>(row_scratch_[i].size()) < program.widest_row)
            row_scratch_[i].resize(program.widest_row);
        if (attention_scratch_[i].size() < program.attention_scratch) {
            attention_scratch_[i].resize(program.attention_scratch);
        }
        grow(matmul_scratch_[i], program.matmul_scratch);
        grow(private_rows_[i], program.private_rows);
        grow(gated_[i], program.gated ? 2 * kGatedFloats * sizeof(float) : 0);
    }
    prepare();
    const size_t count = program.instructions.size();
    if (profiling) profile.resize(count, 0);
    pool.run([&](int thread) {
        int64_t round = 0;
        for (size_t i = 0; i < count;) {
            // Neighbours of one chunk each run on the thread that claims the first, without a barrier
            // between.
            const int64_t start = profiling && thread == 0 ? now_ns() : 0;
            if (alone_[i]) {
                const auto& chain = std::get<RowChain>(program.instructions[i]);
                run_rows(chain, 0, rows_of(chain.rows), thread, true);
                if (profiling && thread == 0) profile[i] += now_ns() - start;
                ++i;
                continue;
            }
            // Not behind a chain that every thread has computed for itself: no barrier lies between.
            const bool fed = i > 0 && alone_[i - 1];
            size_t end = i + 1;
            while (!fed && counts_[i] == 1 && end < count && counts_[end] == 1 && !profiling) ++end;
            shares_.run(round, thread, counts_[i], [&](int64_t index) {
                for (size_t k = i; k < end; ++k) chunk(k, index, thread);
            });
            prefetch_ahead(end, thread);
            pool.barrier().wait();
            ++round;
            if (profiling && thread == 0) profile[i] += now_ns() - start;
            i = end;
        }
    });
    return floats(program.output);
}

// Everything about the batch that instructions share.
void Executor::prepare() {
    const Program& program = *program_;
    const Batch& batch = *batch_;
    tiles_.clear();
    sequence_of_row_.assign(batch.rows(), 0);
    for (size_t s = 0; s < batch.sequences.size(); ++s) {
        const Batch::Sequence& sequence = batch.sequences[s];
        for (int64_t row = 0; row < sequence.rows; row += cpu::kAttentionRows) {
            tiles_.push_back({static_cast<int>(s), sequence.first_row + row,
                              std::min(cpu::kAttentionRows, sequence.rows - row)});
        }
        std::fill_n(sequence_of_row_.begin() + sequence.first_row, sequence.rows, static_cast<int>(s));
    }
    most_tile_rows_ = 0;
    for (const AttentionTile& tile : tiles_) most_tile_rows_ = std::max(most_tile_rows_, tile.rows);
    const size_t groups = program.groups.size();
    visible_begin_.resize(groups);
    segments_.resize(groups);
    visible_.assign(groups, 0);
    for (size_t g = 0; g < groups; ++g) {
        const int64_t window = program.groups[g].window;
        visible_begin_[g].assign(batch.rows(), 0);
        for (int64_t row = 0; row < batch.rows(); ++row) {
            if (window > 0) {
                visible_begin_[g][row] =
                    static_cast<int32_t>(std::max<int64_t>(0, batch.positions[row] + 1 - window));
            }
            visible_[g] += batch.limits[row] - visible_begin_[g][row];
        }
        segments_[g].clear();
        for (const AttentionTile& tile : tiles_) {
            // Positions ascend, so the first row sees the earliest and the last row the latest.
            segments_[g].push_back(
                {visible_begin_[g][tile.first_row] / cpu::kSegmentTokens,
                 ceil_div(batch.limits[tile.first_row + tile.rows - 1], cpu::kSegmentTokens)});
        }
    }

    const size_t count = program.instructions.size();
    shares_.start(threads_);
    ahead_.assign(threads_, {});
    counts_.resize(count);
    alone_.assign(count, false);
    size_t shared = 0, partials = 0;
    for (size_t i = 0; i < count; ++i) {
        const auto* chain = std::get_if<RowChain>(&program.instructions[i]);
        if (threads_ > 1 && chain && chain->feeds_next && rows_of(chain->rows) <= kPrivateRows) {
            alone_[i] = true;
            counts_[i] = 0;
            continue;
        }
        counts_[i] = chunks(program.instructions[i]);
        const auto* layer = std::get_if<AttentionLayer>(&program.instructions[i]);
        if (!layer || attention_parts(*layer) == 1) continue;
        const size_t units = tiles_.size() * layer->n_kv_heads;
        shared = std::max(shared, units);
        partials = std::max(partials, units * partial_stride(*layer));
    }
    if (parts_done_.size() < shared) parts_done_ = std::vector<std::atomic<int64_t>>(shared);
    for (size_t i = 0; i < shared; ++i) parts_done_[i].store(0, std::memory_order_relaxed);
    if (partials_.bytes() < partials * sizeof(float)) partials_ = AlignedBuffer(partials * sizeof(float));
}

size_t Executor::partial_stride(const AttentionLayer& layer) const {
    int64_t most = 0;
    for (const Segments& segments : segments_[layer.group])
        most = std::max(most, segments.end - segments.begin);
    return static_cast<size_t>(most) * cpu::attention_partial_floats(static_cast<int32_t>(layer.n_heads),
                                                                     static_cast<int32_t>(layer.n_kv_heads),
                                                                     static_cast<int32_t>(layer.v_dim),
                                                                     most_tile_rows_);
}

int64_t Executor::attention_parts(const AttentionLayer& layer) const {
    if (threads_ == 1) return 1;
    const int64_t units = static_cast<int64_t>(tiles_.size()) * layer.n_kv_heads;
    int64_t most = 0;
    for (const Segments& segments : segments_[layer.group])
        most = std::max(most, segments.end - segments.begin);
    return std::max<int64_t>(1, std::min(most, ceil_div(threads_ * kUnitsPerThread, units)));
}

int64_t Executor::chunks(const Instruction& instruction) const {
    const int64_t most = threads_ * kChunksPerThread;
    if (const auto* matmul = std::get_if<MatmulGroup>(&instruction)) {
        const int64_t rows = rows_of(matmul->rows);
        if (rows == 0) return 0;
        int64_t bytes = 0;
        for (const auto& part : matmul->parts) bytes += static_cast<int64_t>(part.weight->bytes);
        const int64_t blocks = ceil_div(rows, kMatmulRows);
        const int64_t worth = rows >= 8 ? most : std::max<int64_t>(threads_, bytes / kMinTileBytes);
        return std::min({pieces(*matmul), most, worth}) * blocks;
    }
    if (const auto* chain = std::get_if<RowChain>(&instruction)) return std::min(rows_of(chain->rows), most);
    if (const auto* attention = std::get_if<AttentionLayer>(&instruction)) {
        if (visible_[attention->group] * attention->n_heads * attention->head_dim < kSerialAttention)
            return 1;
        return static_cast<int64_t>(tiles_.size()) * attention->n_kv_heads * attention_parts(*attention);
    }
    if (std::holds_alternative<PoolRows>(instruction)) return static_cast<int64_t>(batch_->outputs.size());
    return std::min(batch_->rows(), most);
}

void Executor::chunk(size_t number, int64_t index, int thread) {
    const Instruction& instruction = program_->instructions[number];
    const int64_t count = counts_[number];
    if (const auto* chain = std::get_if<RowChain>(&instruction)) {
        const Range range = share(rows_of(chain->rows), index, count);
        run_rows(*chain, range.begin, range.end, thread, false);
    } else if (const auto* matmul = std::get_if<MatmulGroup>(&instruction)) {
        run_matmul(*matmul, index, count, thread, number > 0 && alone_[number - 1]);
    } else if (const auto* table = std::get_if<RopeTable>(&instruction)) {
        const Range range = share(batch_->rows(), index, count);
        run_rope_table(*table, range.begin, range.end);
    } else if (const auto* heads = std::get_if<HeadPrepare>(&instruction)) {
        const Range range = share(batch_->rows(), index, count);
        run_heads(*heads, range.begin, range.end, thread);
    } else if (const auto* attention = std::get_if<AttentionLayer>(&instruction)) {
        run_attention(*attention, index, count, thread);
    } else if (const auto* pool = std::get_if<PoolRows>(&instruction)) {
        run_pool(*pool, index);
    }
}

void Executor::run_rows(const RowChain& chain, int64_t begin, int64_t end, int thread, bool alone) {
    const cpu::RowKernels& k = *isa_->rows;
    const int64_t n = chain.width;
    float* const scratch = row_scratch_[thread].data();
    const Range mine = alone ? share(end - begin, thread, threads_) : Range{begin, end};
    for (int64_t row = begin; row < end; ++row) {
        const bool stores = mine.begin <= row && row < mine.end;
        const float* current = nullptr;
        for (const RowStep& step : chain.steps) {
            float* const out = step.store != kNone && stores ? floats(step.store) + row * n : scratch;
            const float* const other = step.other != kNone ? floats(step.other) + row * n : nullptr;
            switch (step.kind) {
                case RowStep::Kind::kLoad:
                    current = other;
                    break;
                case RowStep::Kind::kGather:
                    current = floats(step.other) + batch_->outputs[row] * n;
                    break;
                case RowStep::Kind::kEmbed: {
                    const int64_t index = step.index == EmbedIndex::kToken      ? batch_->tokens[row]
                                          : step.index == EmbedIndex::kPosition ? batch_->positions[row]
                                                                                : 0;
                    cpu::unpack_row(step.table->view, index, out);
                    current = out;
                    break;
                }
                case RowStep::Kind::kScale:
                    k.scale(current, step.factor, out, n);
                    break;
                case RowStep::Kind::kAdd:
                    k.add(current, other, out, n);
                    break;
                case RowStep::Kind::kRmsNorm: {
                    const int64_t width = step.head_dim ? step.head_dim : n;
                    for (int64_t i = 0; i < n; i += width) {
                        k.rms_norm(current + i, step.weight ? step.weight->data() : nullptr, step.factor,
                                   out + i, width);
                    }
                    break;
                }
                case RowStep::Kind::kLayerNorm:
                    k.layer_norm(current, step.weight->data(), step.bias->data(), step.factor, out, n);
                    break;
                case RowStep::Kind::kSilu:
                    k.silu(current, out, n);
                    break;
                case RowStep::Kind::kGeluTanh:
                    k.gelu_tanh(current, out, n);
                    break;
                case RowStep::Kind::kGeluErf:
                    k.gelu_erf(current, out, n);
                    break;
                case RowStep::Kind::kSwiglu:
                case RowStep::Kind::kGeglu: {
                    const float* const gate = step.swapped ? other : current;
                    const float* const up = step.swapped ? current : other;
                    (step.kind == RowStep::Kind::kSwiglu ? k.swiglu : k.geglu)(gate, up, out, n);
                    break;
                }
                case RowStep::Kind::kSoftcap:
                    k.softcap(current, step.factor, out, n);
                    break;
            }
            if (step.kind == RowStep::Kind::kLoad || step.kind == RowStep::Kind::kGather) {
                if (step.store != kNone && stores) current = std::copy_n(current, n, out) - n;
            } else {
                current = out;
            }
            if (step.store_quantized != kNone) {
                const cpu::QuantizedRows rows =
                    alone ? private_rows(n, thread) : quantized(step.store_quantized);
                isa_->matmul->quantize_row(current, rows, row, 0, n / cpu::kBlock);
            }
        }
    }
}

// What a product is cut into: tiles of outputs, or pairs of them where a block of 32 outputs becomes 8 bits.
int64_t Executor::pieces(const MatmulGroup& group) {
    if (group.gated) return group.parts[0].weight->view.rows / cpu::kBlock;
    int64_t tiles = 0;
    for (const auto& part : group.parts) tiles += ceil_div(part.weight->view.rows, cpu::kTileRows);
    return tiles;
}

void Executor::run_matmul(const MatmulGroup& group, int64_t index, int64_t count, int thread, bool alone) {
    const int64_t blocks = ceil_div(rows_of(group.rows), kMatmulRows);
    const int64_t per_block = count / blocks;
    const int64_t first_row = index / per_block * kMatmulRows;
    const Range rows{first_row, std::min(rows_of(group.rows), first_row + kMatmulRows)};
    const Range range = share(pieces(group), index % per_block, per_block);
    cpu::QuantizedRows x{};
    if (group.quantized != kNone) x = alone ? private_rows(group.cols, thread) : quantized(group.quantized);
    if (group.gated) return run_gated(group, x, range, rows, thread);

    int64_t first = 0;  // of this part, among the tiles of all
    for (const auto& part : group.parts) {
        const int64_t part_tiles = ceil_div(part.weight->view.rows, cpu::kTileRows);
        const int64_t begin = std::max<int64_t>(range.begin - first, 0);
        const int64_t end = std::min(range.end - first, part_tiles);
        first += part_tiles;
        if (begin >= end) continue;
        cpu::MatmulTask task{};
        task.w = part.weight->view;
        if (cpu::takes_quantized(part.weight->view.type)) {
            task.xq = x;
        } else {
            task.xf = floats(group.floats);
            task.xf_stride = group.cols;
        }
        task.y = floats(part.y);
        task.y_stride = part.weight->view.rows;
        task.bias = part.bias ? part.bias->data() : nullptr;
        task.residual = part.residual != kNone ? floats(part.residual) : nullptr;
        task.residual_stride = part.weight->view.rows;
        task.scratch = matmul_scratch_[thread].as<>();
        isa_->matmul->matmul(task, begin, end, rows.begin, rows.end);
    }
}

// Gate and up of some rows and of the outputs [32 pairs.begin, 32 pairs.end), activated and rounded to 8 bits
// while they are in a near cache. Few rows take many outputs at once: their weights are one stream each.
void Executor::run_gated(const MatmulGroup& group, const cpu::QuantizedRows& x, Range pairs, Range rows,
                         int thread) {
    constexpr int64_t kPairTiles = cpu::kBlock / cpu::kTileRows;
    const MatmulGroup::Gated& gated = *group.gated;
    const auto& activate =
        gated.activation == RowStep::Kind::kSwiglu ? isa_->rows->swiglu : isa_->rows->geglu;
    const cpu::QuantizedRows out = quantized(gated.out);
    float* const products[] = {gated_[thread].as<float>(), gated_[thread].as<float>() + kGatedFloats};
    const int64_t step = kGatedFloats / (rows.size() * cpu::kBlock);
    for (int64_t pair = pairs.begin; pair < pairs.end; pair += step) {
        const int64_t count = std::min(step, pairs.end - pair), outputs = count * cpu::kBlock;
        for (int i = 0; i < 2; ++i) {
            const MatmulGroup::Part& part = group.parts[i];
            const int64_t tile = pair * kPairTiles;
            // The task's rows and outputs are those of this piece, counted from 0.
            cpu::MatmulTask task{};
            task.w = part.weight->view;
            task.w.rows = outputs;
            task.w.data += static_cast<size_t>(tile) * cpu::tile_bytes(task.w.type, task.w.cols);
            task.bias = part.bias ? part.bias->data() + tile * cpu::kTileRows : nullptr;
            if (cpu::takes_quantized(task.w.type)) {
                task.xq = {cpu::block_of_row(x, rows.begin, 0), rows.size(), x.cols};
            } else {
                task.xf = floats(group.floats) + rows.begin * group.cols;
                task.xf_stride = group.cols;
            }
            task.y = products[i];
            task.y_stride = outputs;
            task.scratch = matmul_scratch_[thread].as<>();
            isa_->matmul->matmul(task, 0, count * kPairTiles, 0, rows.size());
        }
        const float* const gate = products[gated.gate];
        float* const up = products[1 - gated.gate];
        for (int64_t row = 0; row < rows.size(); ++row) {
            float* const both = up + row * outputs;
            activate(gate + row * outputs, both, both, outputs);
            isa_->matmul->quantize_row(both, out, rows.begin + row, pair, pair + count);
        }
    }
}

// Before a thread waits: the first weights of its share of the next product, so that memory is not idle while
// others finish or one thread does what is too small to share. Goes on where the last call ended.
void Executor::prefetch_ahead(size_t next, int thread) {
    const size_t end = std::min(program_->instructions.size(), next + kLookAhead);
    const MatmulGroup* group = nullptr;
    for (; next < end && !group; ++next) group = std::get_if<MatmulGroup>(&program_->instructions[next]);
    if (!group || counts_[--next] == 0) return;
    Ahead& ahead = ahead_[thread];
    if (ahead.instruction != next) ahead = {.instruction = next};
    if (ahead.bytes >= kMostAhead) return;
    Range range = share(pieces(*group), thread, threads_);
    if (group->gated)
        range = {range.begin * cpu::kBlock / cpu::kTileRows, range.end * cpu::kBlock / cpu::kTileRows};
    for (const auto& part : group->parts) {
        const int64_t part_tiles = ceil_div(part.weight->view.rows, cpu::kTileRows);
        if (range.begin < part_tiles) {
            const auto tile = static_cast<int64_t>(part.weight->bytes) / part_tiles;
            const uint8_t* const first = part.weight->view.data + range.begin * tile;
            // Parts are neighbours in memory, so the rest of the share follows.
            const int64_t stop = std::min({ahead.bytes + kAheadStep, range.size() * tile, kMostAhead});
            for (; ahead.bytes < stop; ahead.bytes += 64) __builtin_prefetch(first + ahead.bytes, 0, 2);
            return;
        }
        range = {range.begin - part_tiles, range.end - part_tiles};
    }
}

void Executor::run_rope_table(const RopeTable& table, int64_t begin, int64_t end) {
    const auto half = static_cast<int64_t>(table.frequencies.size());
    for (int64_t row = begin; row < end; ++row) {
        float* const cosines = floats(table.cos) + row * half;
        float* const sines = floats(table.sin) + row * half;
        for (int64_t i = 0; i < half; ++i) {
            const double angle = batch_->positions[row] * table.frequencies[i];
            cosines[i] = static_cast<float>(std::cos(angle));
            sines[i] = static_cast<float>(std::sin(angle));
        }
    }
}

void Executor::run_heads(const HeadPrepare& heads, int64_t begin, int64_t end, int thread) {
    const cpu::RowKernels& kernels = *isa_->rows;
    const auto prepare = [&](const HeadPrepare::Heads& part, int64_t row, float* out) {
        const int64_t width = part.count * heads.head_dim;
        const float* const in = floats(part.buffer) + row * width;
        if (part.normalized) {
            for (int64_t i = 0; i < width; i += heads.head_dim) {
                kernels.rms_norm(in + i, part.norm ? part.norm->data() : nullptr, part.eps, out + i,
                                 heads.head_dim);
            }
        } else if (in != out) {
            std::copy_n(in, width, out);
        }
        if (part.table != kNone) {
            const auto& table = std::get<RopeTable>(program_->instructions[part.table]);
            const int64_t half = part.rotary_dims / 2;
            kernels.rope(out, part.count, heads.head_dim, part.rotary_dims, part.pairing,
                         floats(table.cos) + row * half, floats(table.sin) + row * half);
        }
    };
    const cpu::KvLayer kv = kv_layer(heads.group, heads.layer);
    float* const k = row_scratch_[thread].data();
    for (int64_t row = begin; row < end; ++row) {
        if (heads.q.normalized || heads.q.table != kNone) {
            prepare(heads.q, row, floats(heads.q_out) + row * heads.q.count * heads.head_dim);
        }
        prepare(heads.k, row, k);
        const int32_t position = batch_->positions[row];
        const int32_t* const pages = batch_->sequences[sequence_of_row_[row]].pages[heads.group];
        kernels.store_kv(kv, pages[position / cpu::kPageTokens],
                         static_cast<int32_t>(position % cpu::kPageTokens), k,
                         floats(heads.v) + row * heads.k.count * heads.v_dim);
    }
}

void Executor::run_attention(const AttentionLayer& layer, int64_t index, int64_t count, int thread) {
    const int64_t units = static_cast<int64_t>(tiles_.size()) * layer.n_kv_heads;
    if (count < units) {  // all of it in one chunk
        for (int64_t unit = 0; unit < units; ++unit) attend(layer, unit, 0, 1, thread);
    } else {
        const int64_t parts = count / units;
        attend(layer, index / parts, index % parts, parts, thread);
    }
}

// One part of the segments of a unit: a tile of rows and a KV head. The thread that ends the last part
// merges.
void Executor::attend(const AttentionLayer& layer, int64_t unit, int64_t part, int64_t parts, int thread) {
    // Long tiles first: the last rows of a prompt see the most.
    const auto tile_index = static_cast<int64_t>(tiles_.size()) - 1 - unit / layer.n_kv_heads;
    const auto kv_head = static_cast<int32_t>(unit % layer.n_kv_heads);
    const AttentionTile& tile = tiles_[tile_index];
    cpu::AttentionTask task{};
    task.kv = kv_layer(layer.group, layer.layer);
    task.pages = batch_->sequences[tile.sequence].pages[layer.group];
    task.q_stride = layer.n_heads * layer.head_dim;
    task.q = floats(layer.q);
    task.out_stride = layer.n_heads * layer.v_dim;
    task.out = floats(layer.out);
    task.n_heads = static_cast<int32_t>(layer.n_heads);
    task.scale = layer.scale;
    task.softcap = layer.softcap;
    task.visible_begin = visible_begin_[layer.group].data();
    task.visible_end = batch_->limits.data();
    const int64_t begin = tile.first_row, end = tile.first_row + tile.rows;
    float* const scratch = attention_scratch_[thread].data();
    if (parts == 1) {
        isa_->rows->attention(task, begin, end, kv_head, scratch);
        return;
    }
    const Segments all = segments_[layer.group][tile_index];
    const Range mine = share(all.end - all.begin, part, parts);
    float* const partials = partials_.as<float>() + static_cast<size_t>(unit) * partial_stride(layer);
    const size_t record =
        cpu::attention_partial_floats(task.n_heads, task.kv.n_kv_heads, task.kv.v_dim, tile.rows);
    if (mine.begin < mine.end) {
        isa_->rows->attention_partial(task, begin, end, kv_head, all.begin + mine.begin, all.begin + mine.end,
                                      scratch, partials + static_cast<size_t>(mine.begin) * record);
    }
    if (parts_done_[unit].fetch_add(1, std::memory_order_acq_rel) + 1 == parts) {
        parts_done_[unit].store(0, std::memory_order_relaxed);  // for the next layer, behind a barrier
        isa_->rows->attention_merge(task, begin, end, kv_head, all.begin, all.end, partials);
    }
}

void Executor::run_pool(const PoolRows& pool, int64_t index) {
    const Batch::Sequence& sequence = batch_->sequences[batch_->outputs[index]];
    const int64_t n = program_->buffers[pool.x].width;
    const float* const x = floats(pool.x) + sequence.first_row * n;
    float* const out = floats(pool.out) + index * n;
    switch (pool.kind) {
        case PoolKind::kCls:
            std::copy_n(x, n, out);
            break;
        case PoolKind::kLast:
            std::copy_n(x + (sequence.rows - 1) * n, n, out);
            break;
        case PoolKind::kMean:
            std::fill_n(out, n, 0.0f);
            for (int64_t row = 0; row < sequence.rows; ++row) isa_->rows->add(out, x + row * n, out, n);
            isa_->rows->scale(out, 1.0f / static_cast<float>(sequence.rows), out, n);
            break;
    }
    if (pool.normalize) isa_->rows->l2_norm(out, out, n);
}

}  // namespace ollamapy
