// Walks over the header of a hostile file from front to back: first the bounds, then the bytes, and an error
// that names the field and its byte offset. It reads with pread as it goes, so it never takes more memory
// than the bytes that it was asked for (and one block of read-ahead).
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "errors.h"

namespace ollamapy {

static_assert(std::endian::native == std::endian::little,
              "GGUF files are little-endian, and so is this reader");

// Text from a file made fit for a message: printable ASCII, the rest as \xNN, cut after 80 bytes.
std::string printable(std::string_view text);

// pread until count bytes have come. Throws FileError when the file ends before, std::system_error when the
// system fails.
void read_fully(int fd, uint64_t offset, uint64_t count, void* out);

class HeaderReader {
  public:
    // No header of a real model comes near this: a vocabulary of 262,144 tokens takes 7 MB.
    static constexpr uint64_t kMaxHeaderBytes = uint64_t{128} << 20;

    HeaderReader(int fd, uint64_t file_size);

    uint64_t position() const { return end_offset_ - static_cast<uint64_t>(end_ - cursor_); }
    uint64_t remaining() const { return limit_ - position(); }

    // What the fields that follow belong to, for messages: "metadata #3" until its name is known.
    void enter(const char* kind, uint64_t index);
    void name(std::string_view text) { name_ = text; }
    void leave() { kind_ = nullptr; }
    std::string subject() const;

    template <class T>
    T scalar(const char* part) {
        T value;
        std::memcpy(&value, take(sizeof(T), part), sizeof(T));
        return value;
    }

    // A u64 length and as many bytes. The view stays valid as long as blocks() does.
    std::string_view string(const char* part);

    // Raw bytes of an array's elements, without keeping a copy. The caller has checked the count.
    void copy(void* out, uint64_t bytes, const char* part);

    // Throws unless count items of at least item_bytes each may still follow.
    void check_count(uint64_t count, uint64_t item_bytes, uint64_t offset, const char* part) const;

    // "<subject> <part> at byte <offset>: <reason>"
    [[noreturn]] void fail(const char* part, uint64_t offset, const std::string& reason) const;

    // The bytes that the strings point into.
    std::vector<std::unique_ptr<uint8_t[]>> blocks() && { return std::move(blocks_); }

  private:
    const uint8_t* take(uint64_t bytes, const char* part) {
        if (bytes > static_cast<uint64_t>(end_ - cursor_)) refill(bytes, part);
        const uint8_t* begin = cursor_;
        cursor_ += bytes;
        return begin;
    }
    void refill(uint64_t bytes, const char* part);
    void check_bytes(uint64_t bytes, uint64_t offset, const char* part) const;

    int fd_;
    uint64_t file_size_;
    uint64_t limit_;  // the header ends before this byte
    std::vector<std::unique_ptr<uint8_t[]>> blocks_;
    const uint8_t* cursor_ = nullptr;  // next byte, in the newest block
    const uint8_t* end_ = nullptr;
    uint64_t end_offset_ = 0;  // where end_ lies in the file
    const char* kind_ = nullptr;
    uint64_t index_ = 0;
    std::string_view name_;
};

}  // namespace ollamapy
