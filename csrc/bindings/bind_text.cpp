#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <exception>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "bindings/bindings.h"
#include "errors.h"
#include "text/detokenizer.h"
#include "text/tokenizer.h"

namespace py = pybind11;

namespace ollamapy {

namespace {

// Holds a const Tokenizer, which pybind11 would not.
struct PyTokenizer {
    std::shared_ptr<const Tokenizer> core;
    const Vocabulary& vocabulary() const { return core->vocabulary(); }
};

std::optional<int32_t> id_or_none(int32_t id) {
    return id < 0 ? std::nullopt : std::optional(id);
}

// The UTF-8 of a str or bytes object. `owner` keeps it alive: a str with lone surrogates needs a copy, in
// which each is U+FFFD.
std::string_view utf8_of(const py::object& text, py::object& owner) {
    owner = text;
    if (PyBytes_Check(text.ptr())) {
        return {PyBytes_AS_STRING(text.ptr()), static_cast<size_t>(PyBytes_GET_SIZE(text.ptr()))};
    }
    if (!PyUnicode_Check(text.ptr())) throw py::type_error("encode() takes str or bytes");
    Py_ssize_t size = 0;
    const char* data = PyUnicode_AsUTF8AndSize(text.ptr(), &size);
    if (!data) {
        PyErr_Clear();
        owner = text.attr("encode")("utf-16", "surrogatepass").attr("decode")("utf-16", "replace");
        data = PyUnicode_AsUTF8AndSize(owner.ptr(), &size);
        if (!data) throw py::error_already_set();
    }
    return {data, static_cast<size_t>(size)};
}

int32_t token_of(py::handle item) {
    const Py_ssize_t value = PyNumber_AsSsize_t(item.ptr(), nullptr);  // clamps what is too large
    if (value == -1 && PyErr_Occurred()) throw py::error_already_set();
    if (value < 0 || value > INT32_MAX) throw InvalidError("a token id is out of range");
    return static_cast<int32_t>(value);
}

int32_t checked(const PyTokenizer& self, py::handle item) {
    const int32_t token = token_of(item);
    if (token >= self.vocabulary().size()) throw InvalidError("a token id is out of range");
    return token;
}

py::str text_of(std::string_view bytes) {
    PyObject* text = PyUnicode_DecodeUTF8(bytes.data(), static_cast<Py_ssize_t>(bytes.size()), "replace");
    if (!text) throw py::error_already_set();
    return py::reinterpret_steal<py::str>(text);
}

std::vector<int32_t> encode(const PyTokenizer& self, const py::object& text, bool add_special,
                            bool parse_special) {
    py::object owner;
    const std::string_view utf8 = utf8_of(text, owner);
    const py::gil_scoped_release release;
    return self.core->encode(utf8, add_special, parse_special);
}

py::bytes decode(const PyTokenizer& self, const py::sequence& tokens, bool special) {
    std::string bytes;
    for (const py::handle item : tokens) self.core->append_piece(token_of(item), special, bytes);
    return bytes;
}

py::bytes piece(const PyTokenizer& self, const py::object& token, bool special) {
    std::string bytes;
    self.core->append_piece(token_of(token), special, bytes);
    return bytes;
}

// The grammar library's way to the tokens of a text: how many there are, and as many of them as there is room
// for.
size_t tokenize_for_grammar(const void* tokenizer, const uint8_t* bytes, size_t n_bytes, uint32_t* out,
                            size_t room) noexcept {
    try {
        const std::string_view text(reinterpret_cast<const char*>(bytes), n_bytes);
        const std::vector<int32_t> tokens =
            static_cast<const Tokenizer*>(tokenizer)->encode(text, false, false);
        for (size_t i = 0; i < std::min(room, tokens.size()); ++i) out[i] = static_cast<uint32_t>(tokens[i]);
        return tokens.size();
    } catch (const std::exception&) {  // no memory: no tokens
        return 0;
    }
}

}  // namespace

void bind_text(py::module_& module) {
    module.attr("TOKENIZE_FOR_GRAMMAR") = reinterpret_cast<uintptr_t>(&tokenize_for_grammar);

    py::class_<PyTokenizer>(module, "Tokenizer", py::is_final())
        .def(py::init([](std::shared_ptr<GGUFFile> file) {
                 const py::gil_scoped_release release;
                 return PyTokenizer{load_tokenizer(std::move(file))};
             }),
             py::arg("file"))
        .def_property_readonly("kind", [](const PyTokenizer& self) { return self.core->kind(); })
        .def_property_readonly("vocab_size", [](const PyTokenizer& self) { return self.vocabulary().size(); })
        .def_property_readonly("bos",
                               [](const PyTokenizer& self) { return id_or_none(self.vocabulary().bos); })
        .def_property_readonly("eos",
                               [](const PyTokenizer& self) { return id_or_none(self.vocabulary().eos); })
        .def_property_readonly("eog",
                               [](const PyTokenizer& self) {
                                   return py::frozenset(py::cast(self.vocabulary().end_of_generation));
                               })
        .def_property_readonly(
            "add_bos",
            [](const PyTokenizer& self) { return self.vocabulary().add_bos && self.vocabulary().bos >= 0; })
        .def_property_readonly(
            "add_eos",
            [](const PyTokenizer& self) { return self.vocabulary().add_eos && self.vocabulary().eos >= 0; })
        .def_property_readonly(
            "address", [](const PyTokenizer& self) { return reinterpret_cast<uintptr_t>(self.core.get()); })
        .def("encode", encode, py::arg("text"), py::arg("add_special") = true,
             py::arg("parse_special") = true)
        .def("decode", decode, py::arg("tokens"), py::arg("special") = false)
        .def("piece", piece, py::arg("token"), py::arg("special") = false)
        .def(
            "token_text",
            [](const PyTokenizer& self, const py::object& token) {
                return text_of(self.vocabulary().text(checked(self, token)));
            },
            py::arg("token"))
        .def(
            "is_control",
            [](const PyTokenizer& self, const py::object& token) {
                return self.vocabulary().has(checked(self, token), kControlToken);
            },
            py::arg("token"));

    py::class_<Detokenizer>(module, "Detokenizer", py::is_final())
        .def(py::init([](const PyTokenizer& tokenizer, bool special) {
                 return Detokenizer(tokenizer.core, special);
             }),
             py::arg("tokenizer"), py::arg("special") = false)
        .def(
            "push", [](Detokenizer& self, const py::object& token) { return self.push(token_of(token)); },
            py::arg("token"))
        .def("flush", &Detokenizer::flush)
        .def_property_readonly("pending", &Detokenizer::pending);
}

}  // namespace ollamapy
