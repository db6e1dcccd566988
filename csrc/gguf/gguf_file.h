// Reader for GGUF v2 and v3 files. Source of the format: the GGUF specification (ggml/docs/gguf.md).
//
// A file is hostile until checked: the constructor validates every count, length, offset, shape and alignment
// against the file's size before it allocates for it. Nothing is mapped: tensors are read with pread, so a
// file that is cut short later is an error and not a SIGBUS.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <variant>
#include <vector>

#include "errors.h"
#include "gguf/dtype.h"

namespace ollamapy {

class HeaderReader;

// An array value. Strings are views into the header block that the file object owns.
using MetaArray =
    std::variant<std::vector<uint8_t>, std::vector<int8_t>, std::vector<uint16_t>, std::vector<int16_t>,
                 std::vector<uint32_t>, std::vector<int32_t>, std::vector<uint64_t>, std::vector<int64_t>,
                 std::vector<float>, std::vector<double>, std::vector<bool>, std::vector<std::string_view>>;
using MetaValue = std::variant<bool, uint64_t, int64_t, double, std::string_view, MetaArray>;

struct TensorInfo {
    std::string name;
    uint32_t type_id;  // may be a number that is not in DType: the reader keeps it, users refuse it
    uint32_t n_dims;   // 1 to 4
    int64_t shape[4];  // contiguous dimension first; unused ones are 1
    uint64_t offset;   // from the start of the file
    uint64_t nbytes;   // 0 when the type is not in DType
    int64_t elements() const { return shape[0] * shape[1] * shape[2] * shape[3]; }
};

class GGUFFile {
  public:
    // Throws FileError (malformed; names the field and the byte offset) or std::system_error (cannot be
    // opened or read).
    explicit GGUFFile(const std::string& path);
    GGUFFile(const GGUFFile&) = delete;
    GGUFFile& operator=(const GGUFFile&) = delete;

    const std::string& path() const { return path_; }
    uint32_t version() const { return version_; }
    uint32_t alignment() const { return alignment_; }
    uint64_t size() const { return size_; }

    const std::vector<std::pair<std::string_view, MetaValue>>& metadata() const { return metadata_; }
    const MetaValue* find(std::string_view key) const;  // nullptr when absent

    // Typed look-ups. Absent: the fallback (or nullptr). Wrong type: FileError that names the key.
    std::string_view get_string(std::string_view key, std::string_view fallback) const;
    int64_t get_int(std::string_view key, int64_t fallback) const;
    double get_float(std::string_view key, double fallback) const;
    bool get_bool(std::string_view key, bool fallback) const;
    template <class T>
    const std::vector<T>* get_array(std::string_view key) const {
        const MetaValue* value = find(key);
        if (!value) return nullptr;
        if (const auto* array = std::get_if<MetaArray>(value)) {
            if (const auto* items = std::get_if<std::vector<T>>(array)) return items;
        }
        throw FileError("metadata key '" + std::string(key) + "' is not an array of the expected type");
    }

    const std::vector<TensorInfo>& tensors() const { return tensors_; }
    const TensorInfo* tensor(std::string_view name) const;  // nullptr when absent

    // Read bytes [begin, begin + count) of a tensor; any number of threads may. Throws FileError when the
    // file ends early, the range is outside or the tensor's type is not in DType.
    void read(const TensorInfo& tensor, uint64_t begin, uint64_t count, void* out) const;

    // Tell the system that bytes [begin, begin + count) of a tensor will be read. Only a hint.
    void read_ahead(const TensorInfo& tensor, uint64_t begin, uint64_t count) const;

  private:
    // Closes the file also when the constructor throws.
    struct Descriptor {
        int fd;
        ~Descriptor();
    };

    void read_metadata(HeaderReader& header, uint64_t count);
    void read_alignment(const HeaderReader& header, uint64_t value_offset);
    void read_tensors(HeaderReader& header, uint64_t count);

    std::string path_;
    uint64_t size_ = 0;
    Descriptor file_;  // after size_: opening fills it in
    uint32_t version_ = 0;
    uint32_t alignment_ = 32;
    std::vector<std::unique_ptr<uint8_t[]>> header_;  // metadata bytes that string views point into
    std::vector<std::pair<std::string_view, MetaValue>> metadata_;
    std::unordered_map<std::string_view, size_t> metadata_index_;
    std::vector<TensorInfo> tensors_;
    std::unordered_map<std::string_view, size_t> tensor_index_;
};

}  // namespace ollamapy
