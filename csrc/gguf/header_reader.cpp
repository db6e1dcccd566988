#include "gguf/header_reader.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

namespace ollamapy {

namespace {

constexpr uint64_t kBlockBytes = uint64_t{256} << 10;
constexpr uint64_t kMaxReadBytes = uint64_t{1} << 30;  // Linux reads at most 2 GiB in one call

}  // namespace

std::string printable(std::string_view text) {
    constexpr size_t kMaxBytes = 80;
    constexpr char kHex[] = "0123456789abcdef";
    std::string out;
    for (const char c : text.substr(0, kMaxBytes)) {
        const auto byte = static_cast<unsigned char>(c);
        if (byte >= 0x20 && byte < 0x7f) {
            out += c;
        } else {
            out += {'\\', 'x', kHex[byte >> 4], kHex[byte & 15]};
        }
    }
    if (text.size() > kMaxBytes) out += "...";
    return out;
}

void read_fully(int fd, uint64_t offset, uint64_t count, void* out) {
    auto* to = static_cast<uint8_t*>(out);
    while (count > 0) {
        const ssize_t got = pread(fd, to, std::min(count, kMaxReadBytes), static_cast<off_t>(offset));
        if (got < 0) {
            if (errno == EINTR) continue;
            throw std::system_error(errno, std::generic_category(),
                                    "cannot read at byte " + std::to_string(offset));
        }
        if (got == 0) {
            throw FileError("file at byte " + std::to_string(offset) + ": it ends here, and " +
                            std::to_string(count) + " bytes more were there when it was opened");
        }
        to += got;
        offset += static_cast<uint64_t>(got);
        count -= static_cast<uint64_t>(got);
    }
}

HeaderReader::HeaderReader(int fd, uint64_t file_size)
    : fd_(fd), file_size_(file_size), limit_(std::min(file_size, kMaxHeaderBytes)) {}

void HeaderReader::enter(const char* kind, uint64_t index) {
    kind_ = kind;
    index_ = index;
    name_ = {};
}

std::string HeaderReader::subject() const {
    if (!kind_) return "header";
    if (name_.empty()) return std::string(kind_) + " #" + std::to_string(index_);
    return std::string(kind_) + " '" + printable(name_) + "'";
}

void HeaderReader::fail(const char* part, uint64_t offset, const std::string& reason) const {
    throw FileError(subject() + " " + part + " at byte " + std::to_string(offset) + ": " + reason);
}

void HeaderReader::check_bytes(uint64_t bytes, uint64_t offset, const char* part) const {
    if (bytes <= remaining()) return;
    if (bytes > file_size_ - position()) {
        fail(part, offset,
             "the file is cut short: " + std::to_string(bytes) + " bytes needed, " +
                 std::to_string(file_size_ - position()) + " left");
    }
    fail(part, offset, "the header is larger than " + std::to_string(kMaxHeaderBytes) + " bytes");
}

void HeaderReader::check_count(uint64_t count, uint64_t item_bytes, uint64_t offset, const char* part) const {
    if (count <= remaining() / item_bytes) return;
    fail(part, offset,
         std::to_string(count) + " items of at least " + std::to_string(item_bytes) +
             " bytes do not fit into the " + std::to_string(remaining()) +
             " bytes that are left for the header");
}

// A new block that begins with what is left of the old one: whatever is taken lies in one piece and never
// moves.
void HeaderReader::refill(uint64_t bytes, const char* part) {
    check_bytes(bytes, position(), part);
    const auto left = static_cast<uint64_t>(end_ - cursor_);
    const uint64_t size = std::min(std::max(bytes, kBlockBytes), remaining());
    auto block = std::make_unique_for_overwrite<uint8_t[]>(size);
    if (left > 0) std::memcpy(block.get(), cursor_, left);
    read_fully(fd_, end_offset_, size - left, block.get() + left);
    end_offset_ += size - left;
    cursor_ = block.get();
    end_ = cursor_ + size;
    blocks_.push_back(std::move(block));
}

std::string_view HeaderReader::string(const char* part) {
    const uint64_t offset = position();
    const auto length = scalar<uint64_t>(part);
    check_bytes(length, offset, part);
    return {reinterpret_cast<const char*>(take(length, part)), length};
}

void HeaderReader::copy(void* out, uint64_t bytes, const char* part) {
    check_bytes(bytes, position(), part);
    const uint64_t here = std::min(bytes, static_cast<uint64_t>(end_ - cursor_));
    if (here > 0) std::memcpy(out, cursor_, here);
    cursor_ += here;
    if (bytes > here) {
        read_fully(fd_, end_offset_, bytes - here, static_cast<uint8_t*>(out) + here);
        end_offset_ += bytes - here;
    }
}

}  // namespace ollamapy
