// What every native call shares: the instruction set in use, the threads, the GIL, and the test for overlapping memory.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "cpu/cpu_kernel.h"

namespace pyaccel {

constexpr int64_t kBytesWithGil = 1 << 16;  // below that, giving up the GIL costs more than it is worth

inline const CpuKernel* chosen = available_kernels()[0];

inline int max_threads() {
#if defined(_OPENMP)
  return omp_get_max_threads();
#else
  return 1;
#endif
}

// Long work runs without the GIL.
template <typename Work>
void run_native(int64_t bytes, const Work& work) {
  if (bytes < kBytesWithGil) {
    work();
  } else {
    pybind11::gil_scoped_release release;
    work();
  }
}

inline bool touch(const void* a, int64_t a_bytes, const void* b, int64_t b_bytes) {
  const auto x = reinterpret_cast<uintptr_t>(a), y = reinterpret_cast<uintptr_t>(b);
  return x < y + uintptr_t(b_bytes) && y < x + uintptr_t(a_bytes);
}

}  // namespace pyaccel
