#include "runtime/weights.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <stdexcept>
#include <system_error>
#include <thread>
#include <tuple>

#include "cpu/packed.h"
#include "gguf/dequantize.h"

namespace ollamapy {
namespace {

constexpr int64_t kReadBytes = int64_t{1} << 20;  // file bytes repacked at a time
constexpr size_t kSlabBytes = size_t{64} << 20;   // what is not used of a slab is never touched
constexpr size_t kChunksAhead = 16;               // that the system is told to read

int64_t row_bytes(const TensorInfo& tensor) {
    const DTypeInfo geometry = dtype_info(static_cast<DType>(tensor.type_id));
    return tensor.shape[0] / geometry.block_size * geometry.block_bytes;
}

}  // namespace

const TensorInfo& Weights::info(const std::string& name) const {
    const TensorInfo* tensor = file_->tensor(name);
    if (!tensor && adapter_) tensor = adapter_->tensor(name);
    if (!tensor) throw FileError("tensor '" + name + "' is missing");
    if (!dtype_info(tensor->type_id)) {
        throw FileError("tensor '" + name + "' has type " + std::to_string(tensor->type_id) +
                        ", which is not supported");
    }
    return *tensor;
}

const GGUFFile& Weights::file_of(const TensorInfo& tensor) const {
    return file_->tensor(tensor.name) == &tensor ? *file_ : *adapter_;
}

std::shared_ptr<const Matrix> Weights::matrix(const std::string& name) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (const auto found = matrices_.find(name); found != matrices_.end()) return found->second;
    const TensorInfo& tensor = info(name);
    if (tensor.n_dims > 2) throw FileError("tensor '" + name + "' is not a matrix");
    const auto type = static_cast<DType>(tensor.type_id);
    const int64_t cols = tensor.shape[0];
    const int64_t rows = tensor.shape[1];
    auto matrix = std::make_shared<Matrix>();
    matrix->name = name;
    matrix->bytes = cpu::packed_bytes(type, rows, cols);
    uint8_t* packed;
    std::tie(matrix->slab, packed) = allocate(matrix->bytes);
    matrix->view = {type, rows, cols, packed};
    pending_.push_back({matrix, &tensor, packed});
    return matrices_[name] = std::move(matrix);
}

void Weights::load() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!deferred_) read_pending();
}

void Weights::read() {
    const std::lock_guard<std::mutex> lock(mutex_);
    deferred_ = false;
    read_pending();
}

void Weights::read_pending() {
    std::sort(pending_.begin(), pending_.end(),
              [](const Pending& a, const Pending& b) { return a.tensor->offset < b.tensor->offset; });
    std::vector<Chunk> chunks;
    int64_t buffer_bytes = 0;
    for (const Pending& pending : pending_) {
        const int64_t rows = pending.tensor->shape[1], bytes = row_bytes(*pending.tensor);
        const int64_t step = std::max<int64_t>(1, kReadBytes / (bytes * cpu::kTileRows)) * cpu::kTileRows;
        for (int64_t first = 0; first < rows; first += step) {
            chunks.push_back({&pending, first, std::min(step, rows - first)});
            buffer_bytes = std::max(buffer_bytes, chunks.back().count * bytes);
        }
    }
    if (chunks.empty()) return;

    // Own threads, not the device's pool: loading must not hold up the steps of models that already run.
    std::atomic<size_t> next{0};
    std::mutex failure_mutex;
    std::exception_ptr failure;
    const auto work = [&] {
        try {
            repack(chunks, next, buffer_bytes);
        } catch (...) {
            const std::lock_guard<std::mutex> guard(failure_mutex);
            failure = std::current_exception();
            next.store(chunks.size());
        }
    };
    const size_t helpers = std::min<size_t>(device_->pool().threads(), chunks.size()) - 1;
    std::vector<std::thread> threads;
    try {
        for (size_t i = 0; i < helpers; ++i) threads.emplace_back(work);
    } catch (const std::system_error&) {
        // No more threads to be had: those that there are do it.
    }
    work();
    for (std::thread& thread : threads) thread.join();
    if (failure) std::rethrow_exception(failure);
    pending_.clear();
}

void Weights::repack(const std::vector<Chunk>& chunks, std::atomic<size_t>& next,
                     int64_t buffer_bytes) const {
    const AlignedBuffer bytes(static_cast<size_t>(buffer_bytes));
    for (size_t i; (i = next.fetch_add(1)) < chunks.size();) {
        if (stopped_.load(std::memory_order_relaxed)) throw std::runtime_error("the load was given up");
        // While this chunk is repacked the system reads what the threads come to next.
        if (const size_t ahead = i + kChunksAhead; ahead < chunks.size()) {
            const auto& [of, first, count] = chunks[ahead];
            file_of(*of->tensor)
                .read_ahead(*of->tensor, first * row_bytes(*of->tensor), count * row_bytes(*of->tensor));
        }
        const auto& [of, first, count] = chunks[i];
        const TensorInfo& tensor = *of->tensor;
        file_of(tensor).read(tensor, first * row_bytes(tensor), count * row_bytes(tensor),
                             bytes.as<uint8_t>());
        cpu::pack_rows(of->matrix->view.type, of->matrix->view.cols, bytes.as<uint8_t>(), first, count,
                       of->packed);
    }
}

std::pair<std::shared_ptr<const AlignedBuffer>, uint8_t*> Weights::allocate(size_t bytes) {
    constexpr size_t kLine = 64;
    bytes = (bytes + kLine - 1) / kLine * kLine;
    if (!slab_ || slab_->bytes() - slab_used_ < bytes) {
        slab_ = std::make_shared<const AlignedBuffer>(std::max(bytes, kSlabBytes));
        slab_used_ = 0;
    }
    uint8_t* const place = slab_->as<uint8_t>() + slab_used_;
    slab_used_ += bytes;
    return {slab_, place};
}

std::shared_ptr<const std::vector<float>> Weights::vector(const std::string& name) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (const auto found = vectors_.find(name); found != vectors_.end()) return found->second;
    const TensorInfo& tensor = info(name);
    std::vector<uint8_t> bytes(tensor.nbytes);
    file_of(tensor).read(tensor, 0, tensor.nbytes, bytes.data());
    auto values = std::make_shared<std::vector<float>>(static_cast<size_t>(tensor.elements()));
    dequantize(static_cast<DType>(tensor.type_id), bytes.data(), values->data(), tensor.elements());
    return vectors_[name] = std::move(values);
}

size_t Weights::nbytes() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    size_t total = 0;
    for (const auto& [name, matrix] : matrices_) total += matrix->bytes;
    for (const auto& [name, values] : vectors_) total += values->size() * sizeof(float);
    return total;
}

}  // namespace ollamapy
