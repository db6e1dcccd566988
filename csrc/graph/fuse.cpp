// Fusion over whole instructions of a lowered program.
#include <algorithm>
#include <variant>
#include <vector>

#include "cpu/packed.h"
#include "graph/program.h"

namespace ollamapy {
namespace {

// How many instructions read or write each buffer.
std::vector<int> count_uses(const Program& program) {
    std::vector<int> uses(program.buffers.size(), 0);
    for (const Instruction& instruction : program.instructions) {
        std::vector<int> touched;
        for_buffers(instruction, program, [&](int id) {
            if (id != kNone) touched.push_back(id);
        });
        std::sort(touched.begin(), touched.end());
        touched.erase(std::unique(touched.begin(), touched.end()), touched.end());
        for (const int id : touched) ++uses[id];
    }
    if (program.output != kNone) ++uses[program.output];
    return uses;
}

// The product whose two parts are gate and up of a chain that does nothing but activate them into 8 bits.
MatmulGroup* find_gated(Program& program, size_t at, const std::vector<int>& uses) {
    const auto* chain = std::get_if<RowChain>(&program.instructions[at]);
    if (!chain || chain->steps.size() != 2) return nullptr;
    const RowStep &load = chain->steps[0], &act = chain->steps[1];
    const bool gates = act.kind == RowStep::Kind::kSwiglu || act.kind == RowStep::Kind::kGeglu;
    if (load.kind != RowStep::Kind::kLoad || !gates) return nullptr;
    if (load.store != kNone || load.store_quantized != kNone) return nullptr;
    if (act.store != kNone || act.store_quantized == kNone) return nullptr;
    if (load.other == act.other || uses[load.other] != 2 || uses[act.other] != 2) return nullptr;
    for (size_t i = 0; i < at; ++i) {
        auto* group = std::get_if<MatmulGroup>(&program.instructions[i]);
        if (!group || group->parts.size() != 2 || group->gated) continue;
        const MatmulGroup::Part &a = group->parts[0], &b = group->parts[1];
        const bool straight = a.y == load.other && b.y == act.other;
        const bool crossed = a.y == act.other && b.y == load.other;
        if (!straight && !crossed) continue;
        if (a.residual != kNone || b.residual != kNone) return nullptr;
        const int loaded = straight ? 0 : 1;
        const int gate = act.swapped ? 1 - loaded : loaded;
        group->gated = {act.kind, gate, act.store_quantized};
        return group;
    }
    return nullptr;
}

void fuse_gates(Program& program) {
    const std::vector<int> uses = count_uses(program);
    std::vector<bool> gone(program.instructions.size(), false);
    for (size_t i = 0; i < gone.size(); ++i) {
        MatmulGroup* const group = find_gated(program, i, uses);
        if (!group) continue;
        for (MatmulGroup::Part& part : group->parts) part.y = kNone;
        gone[i] = true;
        program.gated = true;
    }
    // Instructions know RoPE tables by their number.
    std::vector<int> number(gone.size());
    std::vector<Instruction> left;
    for (size_t i = 0; i < gone.size(); ++i) {
        number[i] = static_cast<int>(left.size());
        if (!gone[i]) left.push_back(std::move(program.instructions[i]));
    }
    for (Instruction& instruction : left) {
        auto* heads = std::get_if<HeadPrepare>(&instruction);
        if (!heads) continue;
        for (int* table : {&heads->q.table, &heads->k.table}) {
            if (*table != kNone) *table = number[*table];
        }
    }
    program.instructions = std::move(left);
}

// Whether the next instruction reads what the chain makes in 8 bits, nobody else does, and it reads nothing
// that the chain stores otherwise.
bool feeds(const RowChain& chain, const MatmulGroup& next, const std::vector<int>& uses) {
    if (next.quantized == kNone || next.floats != kNone || uses[next.quantized] != 2) return false;
    bool makes = false;
    for (const RowStep& step : chain.steps) {
        if (step.store_quantized == next.quantized) {
            makes = true;
        } else if (step.store_quantized != kNone) {
            return false;
        }
        for (const MatmulGroup::Part& part : next.parts) {
            if (step.store != kNone && step.store == part.residual) return false;
        }
    }
    return makes;
}

void find_feeding_chains(Program& program) {
    const std::vector<int> uses = count_uses(program);
    for (size_t i = 0; i + 1 < program.instructions.size(); ++i) {
        auto* chain = std::get_if<RowChain>(&program.instructions[i]);
        const auto* next = std::get_if<MatmulGroup>(&program.instructions[i + 1]);
        if (!chain || !next || !feeds(*chain, *next, uses)) continue;
        chain->feeds_next = true;
        program.private_rows =
            std::max(program.private_rows, cpu::quantized_bytes(kPrivateRows, chain->width));
    }
}

}  // namespace

void fuse(Program& program) {
    fuse_gates(program);
    find_feeding_chains(program);
}

}  // namespace ollamapy
