// Places for buffers in the arena: first fit, largest first, over the instructions at which each one lives.
#include <algorithm>
#include <numeric>

#include "graph/program.h"

namespace ollamapy {
namespace {

constexpr size_t kAlign = 64;

size_t aligned(size_t bytes) {
    return (bytes + kAlign - 1) / kAlign * kAlign;
}

template <class... T>
struct Overloaded : T... {
    using T::operator()...;
};
template <class... T>
Overloaded(T...) -> Overloaded<T...>;

}  // namespace

void for_buffers(const Instruction& instruction, const Program& program,
                 const std::function<void(int)>& touch) {
    std::visit(Overloaded{
                   [&](const RowChain& chain) {
                       for (const RowStep& step : chain.steps) {
                           touch(step.other);
                           touch(step.store);
                           touch(step.store_quantized);
                       }
                   },
                   [&](const MatmulGroup& group) {
                       touch(group.quantized);
                       touch(group.floats);
                       for (const auto& part : group.parts) {
                           touch(part.y);
                           touch(part.residual);
                       }
                       if (group.gated) touch(group.gated->out);
                   },
                   [&](const RopeTable& table) {
                       touch(table.cos);
                       touch(table.sin);
                   },
                   [&](const HeadPrepare& heads) {
                       touch(heads.q.buffer);
                       touch(heads.q_out);
                       touch(heads.k.buffer);
                       touch(heads.v);
                       for (const int table : {heads.q.table, heads.k.table}) {
                           if (table == kNone) continue;
                           const auto& rope = std::get<RopeTable>(program.instructions[table]);
                           touch(rope.cos);
                           touch(rope.sin);
                       }
                   },
                   [&](const AttentionLayer& attention) {
                       touch(attention.q);
                       touch(attention.out);
                   },
                   [&](const PoolRows& pool) {
                       touch(pool.x);
                       touch(pool.out);
                   },
               },
               instruction);
}

void plan_memory(Program& program) {
    for (size_t i = 0; i < program.instructions.size(); ++i) {
        // A chain may run together with the instruction that it feeds, a thread ahead of another.
        const auto* chain = std::get_if<RowChain>(&program.instructions[i]);
        const int time = static_cast<int>(chain && chain->feeds_next ? i + 1 : i);
        for_buffers(program.instructions[i], program, [&](int id) {
            if (id == kNone) return;
            Buffer& buffer = program.buffers[id];
            if (buffer.first == kNone) buffer.first = time;
            buffer.last = time;
        });
    }
    program.buffers[program.output].last = static_cast<int>(program.instructions.size());

    for (Buffer& buffer : program.buffers) {
        const int64_t rows = buffer.rows == Rows::kTokens ? program.max_rows : program.max_outputs;
        buffer.bytes = aligned(buffer.quantized ? cpu::quantized_bytes(rows, buffer.width)
                                                : static_cast<size_t>(rows * buffer.width) * sizeof(float));
    }
    std::vector<int> order(program.buffers.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int a, int b) { return program.buffers[a].bytes > program.buffers[b].bytes; });
    std::vector<int> placed;
    for (const int id : order) {
        Buffer& buffer = program.buffers[id];
        if (buffer.first == kNone) continue;
        std::vector<const Buffer*> rivals;
        for (const int other : placed) {
            const Buffer& rival = program.buffers[other];
            if (rival.first <= buffer.last && buffer.first <= rival.last) rivals.push_back(&rival);
        }
        std::sort(rivals.begin(), rivals.end(),
                  [](const Buffer* a, const Buffer* b) { return a->offset < b->offset; });
        size_t offset = 0;
        for (const Buffer* rival : rivals) {
            if (offset + buffer.bytes <= rival->offset) break;
            offset = std::max(offset, rival->offset + rival->bytes);
        }
        buffer.offset = offset;
        program.arena_bytes = std::max(program.arena_bytes, offset + buffer.bytes);
        placed.push_back(id);
    }
}

}  // namespace ollamapy
