// The tensors of a file in the layouts that the kernels want.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "cpu/kernels.h"
#include "gguf/gguf_file.h"
#include "runtime/device.h"
#include "runtime/memory.h"

namespace ollamapy {

// A weight matrix [outputs][inputs], repacked.
struct Matrix {
    std::string name;
    cpu::PackedView view;
    size_t bytes;
    std::shared_ptr<const AlignedBuffer> slab;  // holds the data, and other matrices'
};

class Weights {
  public:
    // adapter, which may be null, is a second file whose tensors are found under their names too. deferred:
    // no matrix is read before read(); what the model takes is known before that.
    Weights(std::shared_ptr<const GGUFFile> file, std::shared_ptr<Device> device,
            std::shared_ptr<const GGUFFile> adapter = nullptr, bool deferred = false)
        : file_(std::move(file)),
          adapter_(std::move(adapter)),
          device_(std::move(device)),
          deferred_(deferred) {}

    const GGUFFile& file() const { return *file_; }
    const std::shared_ptr<Device>& device() const { return device_; }

    // The file's entry for a tensor. Throws FileError when it is absent or of a type that is not run.
    const TensorInfo& info(const std::string& name) const;

    // A tensor's place in its packed layout, [shape[1]][shape[0]]. Its content is there when load() has
    // returned. Throws FileError, std::bad_alloc.
    std::shared_ptr<const Matrix> matrix(const std::string& name);

    // Read and repack every matrix asked for so far, unless that is deferred: in the order of the file, by as
    // many threads as the device has. Throws FileError; what was not loaded then is tried again by the next
    // call.
    void load();

    // The same, and nothing is deferred from now on.
    void read();

    // Let a read that goes on in another thread, or any later one, end at its next piece: it throws
    // std::runtime_error.
    void stop() { stopped_.store(true, std::memory_order_relaxed); }

    // A tensor as float32. Throws FileError.
    std::shared_ptr<const std::vector<float>> vector(const std::string& name);

    // Bytes of the tensors asked for so far.
    size_t nbytes() const;

  private:
    void read_pending();  // with mutex_ held
    // Room for a matrix. Matrices lie one after the other in the order of their first use, which is the
    // model's: a step reads them as one stream, and the small ones share huge pages.
    std::pair<std::shared_ptr<const AlignedBuffer>, uint8_t*> allocate(size_t bytes);
    struct Pending {
        std::shared_ptr<const Matrix> matrix;
        const TensorInfo* tensor;
        uint8_t* packed;  // where it goes
    };
    struct Chunk {  // rows of a matrix
        const Pending* of;
        int64_t first, count;
    };
    // Claims chunks until there are none.
    void repack(const std::vector<Chunk>& chunks, std::atomic<size_t>& next, int64_t buffer_bytes) const;

    // The file that an entry belongs to.
    const GGUFFile& file_of(const TensorInfo& tensor) const;

    std::shared_ptr<const GGUFFile> file_;
    std::shared_ptr<const GGUFFile> adapter_;
    std::shared_ptr<Device> device_;
    mutable std::mutex mutex_;
    std::atomic<bool> stopped_{false};
    bool deferred_;
    std::shared_ptr<const AlignedBuffer> slab_;
    size_t slab_used_ = 0;
    std::vector<Pending> pending_;
    std::unordered_map<std::string, std::shared_ptr<const Matrix>> matrices_;
    std::unordered_map<std::string, std::shared_ptr<const std::vector<float>>> vectors_;
};

}  // namespace ollamapy
