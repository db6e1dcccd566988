// The tensors of a file in the layouts that the kernels want.
#pragma once

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
    Weights(std::shared_ptr<const GGUFFile> file, std::shared_ptr<Device> device)
        : file_(std::move(file)), device_(std::move(device)) {}

    const GGUFFile& file() const { return *file_; }
    const std::shared_ptr<Device>& device() const { return device_; }

    // The file's entry for a tensor. Throws FileError when it is absent or of a type that is not run.
    const TensorInfo& info(const std::string& name) const;

    // A tensor repacked on first use, [shape[1]][shape[0]]. Throws FileError, std::bad_alloc.
    std::shared_ptr<const Matrix> matrix(const std::string& name);

    // A tensor as float32. Throws FileError.
    std::shared_ptr<const std::vector<float>> vector(const std::string& name);

    size_t nbytes() const;

  private:
    // Room for a matrix. Matrices lie one after the other in the order of their first use, which is the
    // model's: a step reads them as one stream, and the small ones share huge pages.
    std::pair<std::shared_ptr<const AlignedBuffer>, uint8_t*> allocate(size_t bytes);

    std::shared_ptr<const GGUFFile> file_;
    std::shared_ptr<Device> device_;
    mutable std::mutex mutex_;
    std::shared_ptr<const AlignedBuffer> slab_;
    size_t slab_used_ = 0;
    std::unordered_map<std::string, std::shared_ptr<const Matrix>> matrices_;
    std::unordered_map<std::string, std::shared_ptr<const std::vector<float>>> vectors_;
};

}  // namespace ollamapy
