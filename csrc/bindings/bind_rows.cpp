// The row kernels by themselves, for tests, and the list of instruction sets. Private names; the engine runs
// programs.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "bindings/bindings.h"
#include "cpu/kernels.h"
#include "cpu/kv_page.h"
#include "errors.h"

namespace ollamapy {

namespace {

namespace py = pybind11;
using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;
using Ints = py::array_t<int32_t, py::array::c_style | py::array::forcecast>;
using Bytes = py::array_t<uint8_t, py::array::c_style>;  // taken as it is: the kernels write into it

const cpu::RowKernels& kernels(const std::string& isa) {
    return *cpu::select_isa(isa.c_str()).rows;
}

void need(bool condition, const char* message) {
    if (!condition) throw InvalidError(message);
}

std::vector<std::string> list_isas() {
    size_t count = 0;
    const char* const* names = cpu::available_isas(&count);
    return {names, names + count};
}

// One operation on rows of n values: x, then further arrays and a number as the operation takes them.
Floats row_op(const std::string& isa, const std::string& op, const std::vector<Floats>& arrays,
              float number) {
    const cpu::RowKernels& table = kernels(isa);
    need(!arrays.empty(), "an operation needs an array");
    const py::ssize_t n = arrays[0].size();
    for (const Floats& array : arrays) {
        need(array.ndim() == 1 && array.size() == n, "arrays must be 1-dimensional and of one length");
    }
    need(n > 0, "arrays must not be empty");
    const auto at = [&](size_t i) { return i < arrays.size() ? arrays[i].data() : nullptr; };
    const auto takes = [&](size_t least, size_t most) {
        need(arrays.size() >= least && arrays.size() <= most, "wrong number of arrays for this operation");
    };
    if (op == "log_sum_exp") {
        takes(1, 1);
        Floats result(2);
        table.log_sum_exp(at(0), n, result.mutable_data(), result.mutable_data() + 1);
        return result;
    }
    Floats result(n);
    float* out = result.mutable_data();
    using Unary = void (*)(const float*, float*, int64_t);
    using Binary = void (*)(const float*, const float*, float*, int64_t);
    using Scaled = void (*)(const float*, float, float*, int64_t);
    const std::array<std::pair<const char*, Unary>, 4> unary{{{"silu", table.silu},
                                                              {"gelu_tanh", table.gelu_tanh},
                                                              {"gelu_erf", table.gelu_erf},
                                                              {"l2_norm", table.l2_norm}}};
    const std::array<std::pair<const char*, Binary>, 3> binary{
        {{"add", table.add}, {"swiglu", table.swiglu}, {"geglu", table.geglu}}};
    const std::array<std::pair<const char*, Scaled>, 2> scaled{
        {{"scale", table.scale}, {"softcap", table.softcap}}};
    for (const auto& [name, function] : unary) {
        if (op != name) continue;
        takes(1, 1);
        function(at(0), out, n);
        return result;
    }
    for (const auto& [name, function] : binary) {
        if (op != name) continue;
        takes(2, 2);
        function(at(0), at(1), out, n);
        return result;
    }
    for (const auto& [name, function] : scaled) {
        if (op != name) continue;
        takes(1, 1);
        function(at(0), number, out, n);
        return result;
    }
    if (op == "rms_norm") {
        takes(1, 2);
        table.rms_norm(at(0), at(1), number, out, n);
        return result;
    }
    if (op == "layer_norm") {
        takes(3, 3);
        table.layer_norm(at(0), at(1), at(2), number, out, n);
        return result;
    }
    throw InvalidError("no row operation named '" + op + "'");
}

Floats rope(const std::string& isa, const Floats& x, const Floats& cos, const Floats& sin,
            const std::string& pairing) {
    need(x.ndim() == 2, "x must be [heads, head_dim]");
    need(cos.ndim() == 1 && sin.ndim() == 1 && cos.size() == sin.size() && 2 * cos.size() <= x.shape(1),
         "cos and sin must be [rotary_dims / 2]");
    need(pairing == "interleaved" || pairing == "halves", "pairing is interleaved or halves");
    Floats result({x.shape(0), x.shape(1)});
    std::copy_n(x.data(), x.size(), result.mutable_data());
    const auto kind = pairing == "halves" ? cpu::RopePairing::kHalves : cpu::RopePairing::kInterleaved;
    kernels(isa).rope(result.mutable_data(), x.shape(0), x.shape(1), 2 * cos.size(), kind, cos.data(),
                      sin.data());
    return result;
}

// [page_stride, k_offset, v_offset, n_kv_heads, head_dim, v_dim]
using Layout = std::array<int64_t, 6>;

cpu::KvLayer kv_layer(Bytes& pool, const Layout& layout, const std::string& kv_type) {
    const cpu::KvType type = kv_type_named(kv_type);
    const auto [page_stride, k_offset, v_offset, heads, head_dim, v_dim] = layout;
    need(pool.ndim() == 1, "the pool must be 1-dimensional");
    need(heads > 0 && heads < 4096 && head_dim > 0 && head_dim <= 4096 && v_dim > 0 && v_dim <= 4096,
         "kv heads or dimensions out of range");
    need(head_dim % 8 == 0 && v_dim % 8 == 0, "head_dim and v_dim must be multiples of 8");
    need(k_offset >= 0 && k_offset + heads * cpu::kv_head_bytes(type, head_dim) <= page_stride &&
             v_offset >= 0 && v_offset + heads * cpu::kv_head_bytes(type, v_dim) <= page_stride,
         "K or V lies outside of its page");
    need(k_offset % 2 == 0 && v_offset % 2 == 0 && page_stride % 2 == 0, "offsets must be even");
    return {pool.mutable_data(),
            page_stride,
            k_offset,
            v_offset,
            static_cast<int32_t>(heads),
            static_cast<int32_t>(head_dim),
            static_cast<int32_t>(v_dim),
            type};
}

void store_kv(const std::string& isa, Bytes pool, const Layout& layout, int32_t page, int32_t slot,
              const Floats& k, const Floats& v, const std::string& kv_type) {
    const cpu::KvLayer kv = kv_layer(pool, layout, kv_type);
    need(page >= 0 && (page + 1) * kv.page_stride <= pool.size(), "page out of range");
    need(slot >= 0 && slot < cpu::kPageTokens, "slot out of range");
    need(k.ndim() == 2 && k.shape(0) == kv.n_kv_heads && k.shape(1) == kv.head_dim,
         "k must be [kv heads, head_dim]");
    need(v.ndim() == 2 && v.shape(0) == kv.n_kv_heads && v.shape(1) == kv.v_dim,
         "v must be [kv heads, v_dim]");
    kernels(isa).store_kv(kv, page, slot, k.data(), v.data());
}

// Rows in groups of group_rows. segments > 0: in two parts, that many segments at a time.
Floats attention(const std::string& isa, Bytes pool, const Layout& layout, const Ints& pages, const Floats& q,
                 const Ints& visible_begin, const Ints& visible_end, float scale, float softcap,
                 int64_t group_rows, int64_t segments, const std::string& kv_type) {
    const cpu::KvLayer kv = kv_layer(pool, layout, kv_type);
    need(q.ndim() == 3 && q.shape(2) == kv.head_dim && q.shape(1) > 0 && q.shape(1) % kv.n_kv_heads == 0,
         "q must be [rows, heads, head_dim], heads a multiple of the kv heads");
    const int64_t rows = q.shape(0), heads = q.shape(1);
    need(heads < 65536 && group_rows >= 1 && group_rows <= cpu::kAttentionRows && segments >= 0,
         "heads, group_rows or segments out of range");
    need(pages.ndim() == 1 && visible_begin.ndim() == 1 && visible_end.ndim() == 1 &&
             visible_begin.size() == rows && visible_end.size() == rows,
         "pages is [pages], visible_begin and visible_end are [rows]");
    for (int64_t row = 0; row < rows; ++row) {
        const int64_t begin = visible_begin.at(row), end = visible_end.at(row);
        need(0 <= begin && begin < end && end <= pages.size() * cpu::kPageTokens,
             "visible positions out of range");
        for (int64_t page = begin / cpu::kPageTokens; page * cpu::kPageTokens < end; ++page) {
            need(pages.at(page) >= 0 && (pages.at(page) + 1) * kv.page_stride <= pool.size(),
                 "a visible page is missing or out of range");
        }
    }
    Floats result({rows, heads, static_cast<int64_t>(kv.v_dim)});
    const cpu::AttentionTask task{kv,
                                  pages.data(),
                                  q.data(),
                                  heads * kv.head_dim,
                                  result.mutable_data(),
                                  heads * kv.v_dim,
                                  static_cast<int32_t>(heads),
                                  scale,
                                  softcap,
                                  visible_begin.data(),
                                  visible_end.data()};
    const cpu::RowKernels& table = kernels(isa);
    const auto n_heads = static_cast<int32_t>(heads);
    std::vector<float> scratch(cpu::attention_scratch(n_heads, kv.n_kv_heads, kv.head_dim, kv.v_dim));
    for (int64_t row = 0; row < rows; row += group_rows) {
        const int64_t row_end = std::min(row + group_rows, rows);
        for (int32_t head = 0; head < kv.n_kv_heads; ++head) {
            if (segments == 0) {
                table.attention(task, row, row_end, head, scratch.data());
                continue;
            }
            const int64_t first =
                *std::min_element(visible_begin.data() + row, visible_begin.data() + row_end) /
                cpu::kSegmentTokens;
            const int64_t last = (*std::max_element(visible_end.data() + row, visible_end.data() + row_end) +
                                  cpu::kSegmentTokens - 1) /
                                 cpu::kSegmentTokens;
            const int64_t record = static_cast<int64_t>(
                cpu::attention_partial_floats(n_heads, kv.n_kv_heads, kv.v_dim, row_end - row));
            std::vector<float> partials(static_cast<size_t>(record * (last - first)));
            for (int64_t s = first; s < last; s += segments) {
                table.attention_partial(task, row, row_end, head, s, std::min(s + segments, last),
                                        scratch.data(), partials.data() + (s - first) * record);
            }
            table.attention_merge(task, row, row_end, head, first, last, partials.data());
        }
    }
    return result;
}

}  // namespace

void bind_rows(py::module_& module) {
    module.def("available_isas", &list_isas);
    module.def("_row_op", &row_op, py::arg("isa"), py::arg("op"), py::arg("arrays"),
               py::arg("number") = 0.0f);
    module.def("_rope", &rope, py::arg("isa"), py::arg("x"), py::arg("cos"), py::arg("sin"),
               py::arg("pairing"));
    module.def("_store_kv", &store_kv, py::arg("isa"), py::arg("pool").noconvert(), py::arg("layout"),
               py::arg("page"), py::arg("slot"), py::arg("k"), py::arg("v"), py::arg("kv_type") = "f16");
    module.def("_attention", &attention, py::arg("isa"), py::arg("pool").noconvert(), py::arg("layout"),
               py::arg("pages"), py::arg("q"), py::arg("visible_begin"), py::arg("visible_end"),
               py::arg("scale"), py::arg("softcap") = 0.0f, py::arg("group_rows") = cpu::kAttentionRows,
               py::arg("segments") = 0, py::arg("kv_type") = "f16");
}

}  // namespace ollamapy
