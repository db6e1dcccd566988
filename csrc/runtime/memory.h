// Owned, 64-byte aligned memory. Comes zeroed from the kernel on first touch, so a large reservation costs
// nothing until it is used.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>

namespace ollamapy {

class AlignedBuffer {
  public:
    AlignedBuffer() = default;

    // Throws std::bad_alloc when the kernel refuses the mapping.
    explicit AlignedBuffer(size_t bytes) : bytes_(bytes) {
        if (bytes == 0) return;
        data_ =
            mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (data_ == MAP_FAILED) {
            data_ = nullptr;
            throw std::bad_alloc();
        }
        if (bytes >= (size_t{4} << 20)) madvise(data_, bytes, MADV_HUGEPAGE);
    }
    AlignedBuffer(AlignedBuffer&& other) noexcept
        : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
    AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(bytes_, other.bytes_);
        return *this;
    }
    ~AlignedBuffer() {
        if (data_) munmap(data_, bytes_);
    }

    template <class T = uint8_t>
    T* as() const {
        return static_cast<T*>(data_);
    }
    size_t bytes() const { return bytes_; }

  private:
    void* data_ = nullptr;
    size_t bytes_ = 0;
};

}  // namespace ollamapy
