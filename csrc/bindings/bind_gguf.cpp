#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "bindings/bindings.h"
#include "gguf/dequantize.h"
#include "gguf/gguf_file.h"
#include "gguf/quantize.h"

namespace ollamapy {

namespace py = pybind11;

namespace {

// Text from a file: invalid UTF-8 becomes U+FFFD.
py::str text(std::string_view bytes) {
    PyObject* object = PyUnicode_DecodeUTF8(bytes.data(), static_cast<Py_ssize_t>(bytes.size()), "replace");
    if (!object) throw py::error_already_set();
    return py::reinterpret_steal<py::str>(object);
}

// Raises the subclass of OSError that belongs to the error number (FileNotFoundError, ...).
void set_os_error(const std::system_error& error, PyObject* path) {
    errno = error.code().value();
    PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, path);
}

std::shared_ptr<GGUFFile> open_file(const py::object& path) {
    PyObject* encoded = nullptr;
    if (!PyUnicode_FSConverter(path.ptr(), &encoded)) throw py::error_already_set();
    const std::string bytes = py::reinterpret_steal<py::bytes>(encoded);
    try {
        py::gil_scoped_release release;
        return std::make_shared<GGUFFile>(bytes);
    } catch (const std::system_error& error) {
        set_os_error(error, path.ptr());
        throw py::error_already_set();
    }
}

template <class T>
py::object array_item(const T& item) {
    return py::cast(item);
}
py::object array_item(std::string_view item) {
    return text(item);
}

struct ToPython {
    py::object operator()(bool value) const { return py::bool_(value); }
    py::object operator()(uint64_t value) const { return py::int_(value); }
    py::object operator()(int64_t value) const { return py::int_(value); }
    py::object operator()(double value) const { return py::float_(value); }
    py::object operator()(std::string_view value) const { return text(value); }
    py::object operator()(const MetaArray& array) const {
        return std::visit(
            [](const auto& items) -> py::object {
                py::list list(items.size());
                for (size_t i = 0; i < items.size(); ++i) {
                    PyList_SET_ITEM(list.ptr(), static_cast<Py_ssize_t>(i),
                                    array_item(items[i]).release().ptr());
                }
                return list;
            },
            array);
    }
};

const TensorInfo& find_tensor(const GGUFFile& file, const std::string& name) {
    if (const TensorInfo* info = file.tensor(name)) return *info;
    throw py::key_error(name);
}

py::array_t<uint8_t> read_tensor(const GGUFFile& file, const std::string& name) {
    const TensorInfo& info = find_tensor(file, name);
    py::array_t<uint8_t> out(static_cast<py::ssize_t>(info.nbytes));
    uint8_t* data = out.mutable_data();
    py::gil_scoped_release release;
    file.read(info, 0, info.nbytes, data);
    return out;
}

py::array_t<float> dequantize_tensor(const GGUFFile& file, const std::string& name) {
    const TensorInfo& info = find_tensor(file, name);
    file.read(info, 0, 0, nullptr);  // refuses types that cannot be decoded before the result is allocated
    const DTypeInfo type = *dtype_info(info.type_id);
    std::vector<py::ssize_t> shape(info.n_dims);
    for (uint32_t i = 0; i < info.n_dims; ++i) shape[info.n_dims - 1 - i] = info.shape[i];
    py::array_t<float> out(shape);
    float* to = out.mutable_data();
    py::gil_scoped_release release;
    const int64_t blocks = info.elements() / type.block_size;
    const int64_t piece = std::min(blocks, (int64_t{1} << 20) / type.block_bytes);
    std::vector<uint8_t> raw(static_cast<size_t>(piece) * type.block_bytes);
    for (int64_t begin = 0; begin < blocks; begin += piece) {
        const int64_t count = std::min(piece, blocks - begin);
        file.read(info, static_cast<uint64_t>(begin) * type.block_bytes,
                  static_cast<uint64_t>(count) * type.block_bytes, raw.data());
        dequantize(static_cast<DType>(info.type_id), raw.data(), to + begin * type.block_size,
                   count * type.block_size);
    }
    return out;
}

using Bytes = py::array_t<uint8_t, py::array::c_style>;

py::array_t<float> dequantize_bytes(uint32_t type_id, const Bytes& data, int64_t count) {
    const auto type = dtype_info(type_id);
    if (!type) throw py::value_error(dtype_name(type_id) + " is not supported");
    if (count < 0 || count % type->block_size != 0) {
        throw py::value_error(std::to_string(count) + " values are not whole blocks of " + type->name);
    }
    if (data.size() % type->block_bytes != 0 || data.size() / type->block_bytes != count / type->block_size) {
        throw py::value_error(std::to_string(data.size()) + " bytes do not hold " + std::to_string(count) +
                              " values of " + type->name);
    }
    py::array_t<float> out(count);
    const uint8_t* from = data.data();
    float* to = out.mutable_data();
    py::gil_scoped_release release;
    dequantize(static_cast<DType>(type_id), from, to, count);
    return out;
}

using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;

py::array_t<uint8_t> quantize_values(uint32_t type_id, const Floats& values) {
    const auto type = dtype_info(type_id);
    if (!type) throw py::value_error(dtype_name(type_id) + " is not supported");
    const py::ssize_t count = values.size();
    if (count % type->block_size != 0) {
        throw py::value_error(std::to_string(count) + " values are not whole blocks of " + type->name);
    }
    py::array_t<uint8_t> out(count / type->block_size * type->block_bytes);
    const float* from = values.data();
    uint8_t* to = out.mutable_data();
    bool done = false;
    {
        py::gil_scoped_release release;
        done = quantize(static_cast<DType>(type_id), from, to, count);
    }
    if (!done) throw py::value_error(std::string("a value is not finite or too large for ") + type->name);
    return out;
}

py::array_t<uint16_t> round_to_f16(const Floats& values) {
    py::array_t<uint16_t> out(std::vector<py::ssize_t>(values.shape(), values.shape() + values.ndim()));
    std::transform(values.data(), values.data() + values.size(), out.mutable_data(), f32_to_f16);
    return out;
}

// name -> (number in the file, values per block, bytes per block)
py::dict block_types() {
    py::dict types;
    for (const DType type : kDTypes) {
        const DTypeInfo info = dtype_info(type);
        types[info.name] = py::make_tuple(static_cast<uint32_t>(type), info.block_size, info.block_bytes);
    }
    return types;
}

}  // namespace

void bind_gguf(py::module_& module) {
    // The system's errors from reading (the file was opened before) are OSErrors wherever they surface.
    py::register_exception_translator([](std::exception_ptr pending) {
        try {
            if (pending) std::rethrow_exception(pending);
        } catch (const std::system_error& error) {
            const py::tuple arguments = py::make_tuple(error.code().value(), error.what());
            PyErr_SetObject(PyExc_OSError, arguments.ptr());
        }
    });

    py::class_<TensorInfo>(module, "TensorInfo", py::is_final())
        .def_property_readonly("name", [](const TensorInfo& info) { return text(info.name); })
        .def_property_readonly("type", [](const TensorInfo& info) { return dtype_name(info.type_id); })
        .def_readonly("type_id", &TensorInfo::type_id)
        .def_property_readonly("shape",
                               [](const TensorInfo& info) {
                                   py::tuple shape(info.n_dims);
                                   for (uint32_t i = 0; i < info.n_dims; ++i) shape[i] = info.shape[i];
                                   return shape;
                               })
        .def_readonly("offset", &TensorInfo::offset)
        .def_readonly("nbytes", &TensorInfo::nbytes)
        .def("__repr__", [](const TensorInfo& info) {
            std::string shape;
            for (uint32_t i = 0; i < info.n_dims; ++i)
                shape += (i ? ", " : "") + std::to_string(info.shape[i]);
            return text("<TensorInfo " + info.name + " " + dtype_name(info.type_id) + " [" + shape + "]>");
        });

    py::class_<GGUFFile, std::shared_ptr<GGUFFile>>(module, "GGUFFile", py::is_final())
        .def(py::init(&open_file), py::arg("path"))
        .def_property_readonly("path",
                               [](const GGUFFile& file) {
                                   return py::reinterpret_steal<py::str>(PyUnicode_DecodeFSDefaultAndSize(
                                       file.path().data(), static_cast<Py_ssize_t>(file.path().size())));
                               })
        .def_property_readonly("version", &GGUFFile::version)
        .def_property_readonly("alignment", &GGUFFile::alignment)
        .def_property_readonly("size", &GGUFFile::size)
        .def("keys",
             [](const GGUFFile& file) {
                 py::list keys;
                 for (const auto& [key, value] : file.metadata()) keys.append(text(key));
                 return keys;
             })
        .def(
            "get",
            [](const GGUFFile& file, const std::string& key, const py::object& fallback) -> py::object {
                const MetaValue* value = file.find(key);
                return value ? std::visit(ToPython{}, *value) : fallback;
            },
            py::arg("key"), py::arg("default") = py::none())
        .def(
            "array_length",
            [](const GGUFFile& file, const std::string& key) {
                const MetaValue* value = file.find(key);
                if (!value) throw py::key_error(key);
                const auto* array = std::get_if<MetaArray>(value);
                if (!array) throw FileError("metadata '" + key + "' is not an array");
                return std::visit([](const auto& items) { return items.size(); }, *array);
            },
            py::arg("key"))
        .def("tensors", &GGUFFile::tensors)
        .def(
            "tensor", [](const GGUFFile& file, const std::string& name) { return find_tensor(file, name); },
            py::arg("name"))
        .def("read", &read_tensor, py::arg("name"))
        .def("dequantize", &dequantize_tensor, py::arg("name"));

    module.attr("BLOCK_TYPES") = block_types();
    module.def("dequantize", &dequantize_bytes, py::arg("type_id"), py::arg("data"), py::arg("count"));
    module.def("quantize", &quantize_values, py::arg("type_id"), py::arg("values"));
    module.def("f32_to_f16", &round_to_f16, py::arg("values"));
}

}  // namespace ollamapy
