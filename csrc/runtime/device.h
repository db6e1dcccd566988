// The CPU as a device: an instruction set, threads, and the scratch arena that programs run in, one at a
// time.
#pragma once

#include <string>

#include "cpu/kernels.h"
#include "runtime/memory.h"
#include "runtime/thread_pool.h"

namespace ollamapy {

class Device {
  public:
    // threads 0: usable_cpus(). Throws InvalidError for an instruction set that this CPU lacks.
    Device(int threads, const std::string& isa)
        : isa_(cpu::select_isa(isa.c_str())), pool_(threads > 0 ? threads : usable_cpus()) {}

    const cpu::Isa& isa() const { return isa_; }
    ThreadPool& pool() { return pool_; }

    // At least bytes of scratch; its content does not survive the step. Only the device thread may call it.
    uint8_t* arena(size_t bytes) {
        if (arena_.bytes() < bytes) arena_ = AlignedBuffer(bytes);
        return arena_.as<uint8_t>();
    }

  private:
    const cpu::Isa& isa_;
    ThreadPool pool_;
    AlignedBuffer arena_;
};

}  // namespace ollamapy
