// _PackedMatrix: the matrix product kernels by themselves, for tests and for benchmarks/kernels.py.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "bindings/bindings.h"
#include "cpu/kernels.h"
#include "cpu/packed.h"
#include "errors.h"
#include "runtime/memory.h"

namespace ollamapy {

namespace {

namespace py = pybind11;
using cpu::kBlock;
using cpu::kPanelRows;
using cpu::kTileRows;
using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;
using Bytes = py::array_t<uint8_t, py::array::c_style>;

class PackedMatrix {
  public:
    PackedMatrix(uint32_t type_id, const Bytes& weights, int64_t rows, int64_t cols, int64_t rows_per_call) {
        const std::optional<DTypeInfo> info = dtype_info(type_id);
        if (!info) throw InvalidError("type " + std::to_string(type_id) + " is not supported");
        type_ = static_cast<DType>(type_id);
        constexpr int64_t kMost = int64_t{1} << 31;
        if (rows < 1 || cols < 1 || rows >= kMost || cols >= kMost) {
            throw InvalidError("a matrix needs 1 to 2^31 - 1 rows and columns");
        }
        if (cols % info->block_size != 0) {
            throw InvalidError(std::string("columns of a ") + info->name + " matrix must be a multiple of " +
                               std::to_string(info->block_size));
        }
        if (rows_per_call < 0 || rows_per_call % kTileRows != 0) {
            throw InvalidError("rows_per_call must be a multiple of 16");
        }
        const int64_t row_bytes = cols / info->block_size * info->block_bytes;
        if (weights.size() / row_bytes != rows || weights.size() % row_bytes != 0) {
            throw InvalidError("the weights do not have rows * " + std::to_string(row_bytes) + " bytes");
        }
        rows_ = rows;
        cols_ = cols;
        const uint8_t* src = weights.data();
        py::gil_scoped_release release;
        data_ = AlignedBuffer(cpu::packed_bytes(type_, rows, cols));
        const int64_t step = rows_per_call == 0 ? rows : rows_per_call;
        for (int64_t row = 0; row < rows; row += step) {
            cpu::pack_rows(type_, cols, src + row * row_bytes, row, std::min(step, rows - row), data_.as<>());
        }
    }

    size_t nbytes() const { return data_.bytes(); }

    py::array_t<float> row(int64_t index) const {
        if (index < 0 || index >= rows_) throw py::index_error("row out of range");
        py::array_t<float> out(cols_);
        cpu::unpack_row(view(), index, out.mutable_data());
        return out;
    }

    py::array_t<float> matmul(const Floats& x, const std::string& isa, const std::optional<Floats>& bias,
                              const std::optional<Floats>& residual, int64_t tile_step,
                              int64_t row_step) const {
        const cpu::MatmulKernels& table = *cpu::select_isa(isa.c_str()).matmul;
        if (x.ndim() != 2 || x.shape(1) != cols_) throw InvalidError("x must be [m, cols]");
        const int64_t m = x.shape(0);
        if (bias && (bias->ndim() != 1 || bias->shape(0) != rows_)) throw InvalidError("bias must be [rows]");
        if (residual && (residual->ndim() != 2 || residual->shape(0) != m || residual->shape(1) != rows_)) {
            throw InvalidError("residual must be [m, rows]");
        }
        if (tile_step < 0 || row_step < 0 || row_step % kPanelRows != 0) {
            throw InvalidError("tile_step must not be negative, row_step a multiple of PANEL_ROWS");
        }
        py::array_t<float> y({m, rows_});
        const AlignedBuffer quantized = quantized_buffer(m);
        cpu::MatmulTask task = make_task(x.data(), m, quantized, y.mutable_data());
        task.bias = bias ? bias->data() : nullptr;
        task.residual = residual ? residual->data() : nullptr;
        task.residual_stride = rows_;
        const AlignedBuffer scratch(table.scratch_bytes(type_, cols_));
        task.scratch = scratch.as<>();
        py::gil_scoped_release release;
        quantize(table, task, m);
        const int64_t n_tiles = tiles();
        if (tile_step == 0) tile_step = n_tiles;
        if (row_step == 0) row_step = std::max<int64_t>(m, 1);
        for (int64_t row = 0; row < m; row += row_step) {
            for (int64_t tile = 0; tile < n_tiles; tile += tile_step) {
                table.matmul(task, tile, std::min(tile + tile_step, n_tiles), row,
                             std::min(row + row_step, m));
            }
        }
        return y;
    }

    // Seconds of each of repeats products with m rows, quantization included, the tiles split over threads.
    std::vector<double> time(int64_t m, const std::string& isa, int repeats, int threads) const {
        const cpu::MatmulKernels& table = *cpu::select_isa(isa.c_str()).matmul;
        if (m < 1 || m > 65536 || repeats < 1 || threads < 1 || threads > 256) {
            throw InvalidError("m, repeats or threads out of range");
        }
        py::gil_scoped_release release;
        std::vector<float> x(static_cast<size_t>(m * cols_));
        const AlignedBuffer y(static_cast<size_t>(m * rows_) * sizeof(float));
        uint32_t state = 1;
        for (float& value : x) {
            state = state * 1664525u + 1013904223u;
            value = static_cast<float>(state >> 8) / 8388608.0f - 1.0f;
        }
        const AlignedBuffer quantized = quantized_buffer(m);
        const cpu::MatmulTask task = make_task(x.data(), m, quantized, y.as<float>());
        std::vector<AlignedBuffer> scratch;
        for (int t = 0; t < threads; ++t) scratch.emplace_back(table.scratch_bytes(type_, cols_));
        std::vector<double> seconds;
        for (int repeat = 0; repeat < repeats; ++repeat) {
            const auto start = std::chrono::steady_clock::now();
            quantize(table, task, m);
            std::vector<std::thread> workers;
            for (int t = 0; t < threads; ++t) {
                const auto run = [&, t] {
                    cpu::MatmulTask mine = task;
                    mine.scratch = scratch[t].as<>();
                    table.matmul(mine, tiles() * t / threads, tiles() * (t + 1) / threads, 0, m);
                };
                if (t + 1 < threads) {
                    workers.emplace_back(run);
                } else {
                    run();
                }
            }
            for (std::thread& worker : workers) worker.join();
            seconds.push_back(
                std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
        }
        return seconds;
    }

  private:
    cpu::PackedView view() const { return {type_, rows_, cols_, data_.as<>()}; }
    int64_t tiles() const { return (rows_ + kTileRows - 1) / kTileRows; }

    AlignedBuffer quantized_buffer(int64_t m) const {
        return AlignedBuffer(cpu::takes_quantized(type_) ? cpu::quantized_bytes(m, cols_) : 0);
    }

    cpu::MatmulTask make_task(const float* x, int64_t m, const AlignedBuffer& quantized, float* y) const {
        return {view(), {quantized.as<>(), m, cols_}, x, cols_, y, rows_, nullptr, nullptr, 0, nullptr};
    }

    void quantize(const cpu::MatmulKernels& table, const cpu::MatmulTask& task, int64_t m) const {
        if (!cpu::takes_quantized(type_)) return;
        for (int64_t row = 0; row < m; ++row)
            table.quantize_row(task.xf + row * cols_, task.xq, row, 0, cols_ / kBlock);
    }

    DType type_{};
    int64_t rows_ = 0;
    int64_t cols_ = 0;
    AlignedBuffer data_;
};

}  // namespace

void bind_matmul(py::module_& module) {
    py::class_<PackedMatrix> matrix(module, "_PackedMatrix");
    matrix
        .def(py::init<uint32_t, const Bytes&, int64_t, int64_t, int64_t>(), py::arg("type_id"),
             py::arg("weights"), py::arg("rows"), py::arg("cols"), py::arg("rows_per_call") = 0)
        .def_property_readonly("nbytes", &PackedMatrix::nbytes)
        .def("row", &PackedMatrix::row, py::arg("index"))
        .def("matmul", &PackedMatrix::matmul, py::arg("x"), py::arg("isa"), py::arg("bias") = py::none(),
             py::arg("residual") = py::none(), py::arg("tile_step") = 0, py::arg("row_step") = 0)
        .def("time", &PackedMatrix::time, py::arg("m"), py::arg("isa"), py::arg("repeats") = 1,
             py::arg("threads") = 1);
    matrix.attr("PANEL_ROWS") = kPanelRows;
}

}  // namespace ollamapy
