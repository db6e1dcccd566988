#include "gguf/gguf_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <system_error>

#include "gguf/header_reader.h"

namespace ollamapy {

namespace {

// Value types of the metadata, numbered as in the file.
enum class MetaType : uint32_t {
    kUint8 = 0,
    kInt8 = 1,
    kUint16 = 2,
    kInt16 = 3,
    kUint32 = 4,
    kInt32 = 5,
    kFloat32 = 6,
    kBool = 7,
    kString = 8,
    kArray = 9,
    kUint64 = 10,
    kInt64 = 11,
    kFloat64 = 12,
};

// Bounds of what real files hold, so that a hostile one cannot make us keep much more than its own size in
// memory.
constexpr uint64_t kMaxMetadata = 65536;
constexpr uint64_t kMaxTensors = 1u << 20;
constexpr uint64_t kMaxKeyBytes = 65535;  // the specification's
constexpr uint64_t kMaxTensorNameBytes = 1024;
constexpr uint32_t kMaxAlignment = 1u << 20;

// Keys are ASCII by the specification, tensor names in every file that we know; they appear in messages.
bool is_ascii(std::string_view text) {
    return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

// The fewest bytes that an entry takes: a length, one byte of name, a type and one byte of value; a length,
// one byte of name, the count of dimensions, one dimension, a type and an offset.
constexpr uint64_t kMinMetadataBytes = 8 + 1 + 4 + 1;
constexpr uint64_t kMinTensorBytes = 8 + 1 + 4 + 8 + 4 + 8;

int open_regular(const std::string& path, uint64_t* size) {
    // O_NONBLOCK: opening a pipe by mistake must not hang.
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) throw std::system_error(errno, std::generic_category(), "cannot open " + path);
    struct stat status;
    if (fstat(fd, &status) != 0) {
        const int error = errno;
        close(fd);
        throw std::system_error(error, std::generic_category(), "cannot stat " + path);
    }
    if (S_ISDIR(status.st_mode)) {
        close(fd);
        throw std::system_error(EISDIR, std::generic_category(), "cannot read " + path);
    }
    if (!S_ISREG(status.st_mode)) {
        close(fd);
        throw FileError("not a regular file");
    }
    *size = static_cast<uint64_t>(status.st_size);
    return fd;
}

bool read_bool(HeaderReader& header, const char* part) {
    const uint64_t offset = header.position();
    const auto byte = header.scalar<uint8_t>(part);
    if (byte > 1) header.fail(part, offset, "a bool is 0 or 1, not " + std::to_string(byte));
    return byte != 0;
}

template <class T>
MetaArray read_numbers(HeaderReader& header, uint64_t count, uint64_t offset) {
    header.check_count(count, sizeof(T), offset, "array length");
    std::vector<T> items(count);
    header.copy(items.data(), count * sizeof(T), "array value");
    return items;
}

MetaArray read_array(HeaderReader& header) {
    const uint64_t type_offset = header.position();
    const auto type = header.scalar<uint32_t>("array type");
    const uint64_t offset = header.position();
    const auto count = header.scalar<uint64_t>("array length");
    switch (static_cast<MetaType>(type)) {
        case MetaType::kUint8:
            return read_numbers<uint8_t>(header, count, offset);
        case MetaType::kInt8:
            return read_numbers<int8_t>(header, count, offset);
        case MetaType::kUint16:
            return read_numbers<uint16_t>(header, count, offset);
        case MetaType::kInt16:
            return read_numbers<int16_t>(header, count, offset);
        case MetaType::kUint32:
            return read_numbers<uint32_t>(header, count, offset);
        case MetaType::kInt32:
            return read_numbers<int32_t>(header, count, offset);
        case MetaType::kUint64:
            return read_numbers<uint64_t>(header, count, offset);
        case MetaType::kInt64:
            return read_numbers<int64_t>(header, count, offset);
        case MetaType::kFloat32:
            return read_numbers<float>(header, count, offset);
        case MetaType::kFloat64:
            return read_numbers<double>(header, count, offset);
        case MetaType::kBool: {
            header.check_count(count, 1, offset, "array length");
            std::vector<bool> items(count);
            for (uint64_t i = 0; i < count; ++i) items[i] = read_bool(header, "array value");
            return items;
        }
        case MetaType::kString: {
            header.check_count(count, sizeof(uint64_t), offset, "array length");
            std::vector<std::string_view> items(count);
            for (auto& item : items) item = header.string("array value");
            return items;
        }
        case MetaType::kArray:
            header.fail("array type", type_offset, "arrays of arrays are not supported");
    }
    header.fail("array type", type_offset, "unknown value type " + std::to_string(type));
}

MetaValue read_value(HeaderReader& header) {
    const uint64_t offset = header.position();
    const auto type = header.scalar<uint32_t>("type");
    switch (static_cast<MetaType>(type)) {
        case MetaType::kUint8:
            return uint64_t{header.scalar<uint8_t>("value")};
        case MetaType::kInt8:
            return int64_t{header.scalar<int8_t>("value")};
        case MetaType::kUint16:
            return uint64_t{header.scalar<uint16_t>("value")};
        case MetaType::kInt16:
            return int64_t{header.scalar<int16_t>("value")};
        case MetaType::kUint32:
            return uint64_t{header.scalar<uint32_t>("value")};
        case MetaType::kInt32:
            return int64_t{header.scalar<int32_t>("value")};
        case MetaType::kUint64:
            return header.scalar<uint64_t>("value");
        case MetaType::kInt64:
            return header.scalar<int64_t>("value");
        case MetaType::kFloat32:
            return double{header.scalar<float>("value")};
        case MetaType::kFloat64:
            return header.scalar<double>("value");
        case MetaType::kBool:
            return read_bool(header, "value");
        case MetaType::kString:
            return header.string("value");
        case MetaType::kArray:
            return read_array(header);
    }
    header.fail("type", offset, "unknown value type " + std::to_string(type));
}

// Dimensions of one tensor into info, and its size if the type is known.
void read_shape(HeaderReader& header, TensorInfo& info) {
    const uint64_t count_offset = header.position();
    info.n_dims = header.scalar<uint32_t>("dimension count");
    if (info.n_dims < 1 || info.n_dims > 4) {
        header.fail("dimension count", count_offset, std::to_string(info.n_dims) + " is not between 1 and 4");
    }
    const uint64_t shape_offset = header.position();
    int64_t elements = 1;
    for (uint32_t i = 0; i < 4; ++i) {
        info.shape[i] = 1;
        if (i >= info.n_dims) continue;
        const uint64_t offset = header.position();
        const auto size = header.scalar<uint64_t>("shape");
        if (size == 0 || size > uint64_t{std::numeric_limits<int64_t>::max()}) {
            header.fail("shape", offset, "dimension " + std::to_string(size) + " is out of range");
        }
        info.shape[i] = static_cast<int64_t>(size);
        if (__builtin_mul_overflow(elements, info.shape[i], &elements)) {
            header.fail("shape", shape_offset, "the product of the dimensions overflows");
        }
    }
    info.type_id = header.scalar<uint32_t>("type");
    info.nbytes = 0;
    const auto type = dtype_info(info.type_id);
    if (!type) return;
    if (info.shape[0] % type->block_size != 0) {
        header.fail("shape", shape_offset,
                    "rows of " + std::to_string(info.shape[0]) + " values are no multiple of the " +
                        std::to_string(type->block_size) + " values in a block of " + type->name);
    }
    const auto blocks = static_cast<uint64_t>(elements) / type->block_size;
    if (__builtin_mul_overflow(blocks, uint64_t{type->block_bytes}, &info.nbytes)) {
        header.fail("shape", shape_offset, "the size in bytes overflows");
    }
}

[[noreturn]] void wrong_type(std::string_view key, const char* expected) {
    throw FileError("metadata '" + printable(key) + "' is not " + expected);
}

}  // namespace

GGUFFile::Descriptor::~Descriptor() {
    close(fd);
}

GGUFFile::GGUFFile(const std::string& path) : path_(path), file_{open_regular(path, &size_)} {
    HeaderReader header(file_.fd, size_);
    const auto magic = header.scalar<uint32_t>("magic");
    constexpr uint32_t kMagic = 0x46554747;         // "GGUF"
    constexpr uint32_t kSwappedMagic = 0x47475546;  // "FUGG"
    if (magic == kSwappedMagic) header.fail("magic", 0, "big-endian GGUF files are not supported");
    if (magic != kMagic) header.fail("magic", 0, "this is not a GGUF file");
    version_ = header.scalar<uint32_t>("version");
    if (version_ != 0 && (version_ & 0xffff) == 0) {
        header.fail("version", 4, "big-endian GGUF files are not supported");
    }
    if (version_ < 2 || version_ > 3) {
        header.fail("version", 4,
                    "GGUF version " + std::to_string(version_) + " is not supported, only 2 and 3 are");
    }
    const auto tensors = header.scalar<uint64_t>("tensor count");
    const auto entries = header.scalar<uint64_t>("metadata count");
    if (tensors > kMaxTensors) header.fail("tensor count", 8, std::to_string(tensors) + " is too large");
    if (entries > kMaxMetadata) header.fail("metadata count", 16, std::to_string(entries) + " is too large");
    header.check_count(tensors, kMinTensorBytes, 8, "tensor count");
    header.check_count(entries, kMinMetadataBytes, 16, "metadata count");
    read_metadata(header, entries);
    read_tensors(header, tensors);
    header_ = std::move(header).blocks();
}

void GGUFFile::read_metadata(HeaderReader& header, uint64_t count) {
    metadata_.reserve(count);
    metadata_index_.reserve(count);
    for (uint64_t i = 0; i < count; ++i) {
        header.enter("metadata", i);
        const uint64_t offset = header.position();
        const std::string_view key = header.string("key");
        if (key.empty()) header.fail("key", offset, "it is empty");
        if (key.size() > kMaxKeyBytes) {
            header.fail("key", offset, std::to_string(key.size()) + " bytes are too many for a key");
        }
        if (!is_ascii(key)) header.fail("key", offset, "it is not ASCII");
        header.name(key);
        if (!metadata_index_.emplace(key, metadata_.size()).second) {
            header.fail("key", offset, "this key was there before");
        }
        const uint64_t value_offset = header.position();
        metadata_.emplace_back(key, read_value(header));
        if (key == "general.alignment") read_alignment(header, value_offset);
    }
    header.leave();
}

void GGUFFile::read_alignment(const HeaderReader& header, uint64_t value_offset) {
    const auto* value = std::get_if<uint64_t>(&metadata_.back().second);
    if (!value) header.fail("value", value_offset, "the alignment is not an unsigned integer");
    if (*value > kMaxAlignment || *value % 8 != 0 || !std::has_single_bit(*value)) {
        header.fail("value", value_offset,
                    "the alignment " + std::to_string(*value) + " is not a power of two from 8 to " +
                        std::to_string(kMaxAlignment));
    }
    alignment_ = static_cast<uint32_t>(*value);
}

void GGUFFile::read_tensors(HeaderReader& header, uint64_t count) {
    header.check_count(count, kMinTensorBytes, 8, "tensor count");
    tensors_.resize(count);
    tensor_index_.reserve(count);
    std::vector<uint64_t> offset_fields(count);
    for (uint64_t i = 0; i < count; ++i) {
        TensorInfo& info = tensors_[i];
        header.enter("tensor", i);
        const uint64_t name_offset = header.position();
        const std::string_view name = header.string("name");
        if (name.empty()) header.fail("name", name_offset, "it is empty");
        if (name.size() > kMaxTensorNameBytes) {
            header.fail("name", name_offset, std::to_string(name.size()) + " bytes are too many for a name");
        }
        if (!is_ascii(name)) header.fail("name", name_offset, "it is not ASCII");
        header.name(name);
        info.name = name;
        read_shape(header, info);
        offset_fields[i] = header.position();
        info.offset = header.scalar<uint64_t>("offset");
        if (info.offset % alignment_ != 0) {
            header.fail("offset", offset_fields[i],
                        std::to_string(info.offset) + " is not a multiple of the alignment " +
                            std::to_string(alignment_));
        }
        if (!tensor_index_.emplace(info.name, i).second) {
            header.fail("name", name_offset, "this name was there before");
        }
    }
    header.leave();
    if (count == 0) return;

    // Now that the header's end is known: every tensor's bytes lie behind it, inside the file, and are its
    // own.
    const uint64_t data = (header.position() + alignment_ - 1) / alignment_ * alignment_;
    std::vector<uint64_t> order(count);
    for (uint64_t i = 0; i < count; ++i) {
        TensorInfo& info = tensors_[i];
        header.enter("tensor", i);
        header.name(info.name);
        if (data > size_ || info.offset > size_ - data || info.nbytes > size_ - data - info.offset) {
            header.fail("offset", offset_fields[i],
                        std::to_string(info.nbytes) + " bytes at " + std::to_string(info.offset) +
                            " of the data, which begins at " + std::to_string(data) +
                            ", lie beyond the file's end at " + std::to_string(size_));
        }
        info.offset += data;
        order[i] = i;
    }
    std::sort(order.begin(), order.end(), [this](uint64_t a, uint64_t b) {
        return std::pair(tensors_[a].offset, a) < std::pair(tensors_[b].offset, b);
    });
    uint64_t previous = order[0];  // ends last of those seen so far
    for (const uint64_t i : order) {
        const TensorInfo& info = tensors_[i];
        const TensorInfo& before = tensors_[previous];
        if (i != previous && info.nbytes > 0 && info.offset < before.offset + before.nbytes) {
            header.enter("tensor", i);
            header.name(info.name);
            header.fail("offset", offset_fields[i],
                        "its data overlaps that of tensor '" + printable(before.name) + "'");
        }
        if (info.offset + info.nbytes >= before.offset + before.nbytes) previous = i;
    }
    header.leave();
}

const MetaValue* GGUFFile::find(std::string_view key) const {
    const auto it = metadata_index_.find(key);
    return it == metadata_index_.end() ? nullptr : &metadata_[it->second].second;
}

std::string_view GGUFFile::get_string(std::string_view key, std::string_view fallback) const {
    const MetaValue* value = find(key);
    if (!value) return fallback;
    if (const auto* text = std::get_if<std::string_view>(value)) return *text;
    wrong_type(key, "a string");
}

int64_t GGUFFile::get_int(std::string_view key, int64_t fallback) const {
    const MetaValue* value = find(key);
    if (!value) return fallback;
    if (const auto* number = std::get_if<int64_t>(value)) return *number;
    if (const auto* number = std::get_if<uint64_t>(value)) {
        if (*number <= uint64_t{std::numeric_limits<int64_t>::max()}) return static_cast<int64_t>(*number);
    }
    wrong_type(key, "an integer that fits into 64 bits with a sign");
}

double GGUFFile::get_float(std::string_view key, double fallback) const {
    const MetaValue* value = find(key);
    if (!value) return fallback;
    if (const auto* number = std::get_if<double>(value)) return *number;
    if (const auto* number = std::get_if<uint64_t>(value)) return static_cast<double>(*number);
    if (const auto* number = std::get_if<int64_t>(value)) return static_cast<double>(*number);
    wrong_type(key, "a number");
}

bool GGUFFile::get_bool(std::string_view key, bool fallback) const {
    const MetaValue* value = find(key);
    if (!value) return fallback;
    if (const auto* flag = std::get_if<bool>(value)) return *flag;
    wrong_type(key, "a bool");
}

const TensorInfo* GGUFFile::tensor(std::string_view name) const {
    const auto it = tensor_index_.find(name);
    return it == tensor_index_.end() ? nullptr : &tensors_[it->second];
}

void GGUFFile::read(const TensorInfo& tensor, uint64_t begin, uint64_t count, void* out) const {
    if (!dtype_info(tensor.type_id)) {
        throw FileError("tensor '" + printable(tensor.name) + "' is of type " + dtype_name(tensor.type_id) +
                        ", which is not supported");
    }
    if (begin > tensor.nbytes || count > tensor.nbytes - begin) {
        throw FileError("tensor '" + printable(tensor.name) + "' has no bytes " + std::to_string(begin) +
                        " to " + std::to_string(begin + count));
    }
    read_fully(file_.fd, tensor.offset + begin, count, out);
}

void GGUFFile::read_ahead(const TensorInfo& tensor, uint64_t begin, uint64_t count) const {
    posix_fadvise(file_.fd, static_cast<off_t>(tensor.offset + begin), static_cast<off_t>(count),
                  POSIX_FADV_WILLNEED);
}

}  // namespace ollamapy
