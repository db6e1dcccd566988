// Errors that cross into Python.
#pragma once

#include <stdexcept>
#include <string>

namespace ollamapy {

// A file that is not what it claims to be. The message names the field and, where there is one, the byte
// offset. Becomes ollamapy._core.GGUFError (a ValueError).
class FileError : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

// A graph, plan or request that cannot be run. Becomes ValueError, as std::invalid_argument does.
class InvalidError : public std::invalid_argument {
  public:
    using std::invalid_argument::invalid_argument;
};

}  // namespace ollamapy
