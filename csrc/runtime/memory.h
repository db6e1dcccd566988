// Owned, 64-byte aligned memory. Comes zeroed from the kernel on first touch, so a large reservation costs
// nothing until it is used. Two megabytes or more lie in huge pages where the kernel has them: a stream
// through small ones waits for a page walk every 4 KB.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

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
        const bool huge = bytes >= kHugePage;
        mapped_ = huge ? bytes + kHugePage : bytes;
        map_ = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
                    0);
        if (map_ == MAP_FAILED) {
            map_ = nullptr;
            throw std::bad_alloc();
        }
        data_ = static_cast<uint8_t*>(map_);
        if (huge) {
            data_ += (kHugePage - reinterpret_cast<uintptr_t>(data_) % kHugePage) % kHugePage;
            madvise(data_, bytes, MADV_HUGEPAGE);
        }
    }
    AlignedBuffer(AlignedBuffer&& other) noexcept { *this = std::move(other); }
    AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
        std::swap(map_, other.map_);
        std::swap(mapped_, other.mapped_);
        std::swap(data_, other.data_);
        std::swap(bytes_, other.bytes_);
        return *this;
    }
    ~AlignedBuffer() {
        if (map_) munmap(map_, mapped_);
    }

    template <class T = uint8_t>
    T* as() const {
        return reinterpret_cast<T*>(data_);
    }
    size_t bytes() const { return bytes_; }

    // Give the memory of bytes [begin, end) back to the system; they are zeros when they are touched again.
    // Bytes that share a system page with others stay as they are.
    void give_back(size_t begin, size_t end) const {
        const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
        begin = (begin + page - 1) / page * page;
        end = end / page * page;
        if (begin < end) madvise(data_ + begin, end - begin, MADV_DONTNEED);
    }

  private:
    static constexpr size_t kHugePage = size_t{2} << 20;

    void* map_ = nullptr;  // more than what is used: up to a huge page before it
    size_t mapped_ = 0;
    uint8_t* data_ = nullptr;
    size_t bytes_ = 0;
};

}  // namespace ollamapy
