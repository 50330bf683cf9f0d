// What every native call shares: the device, the instruction set in use, the threads, the GIL, and the test for
// overlapping memory.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "cpu/cpu_kernel.h"
#include "tensors.h"

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

// Work where the tensors are: cpu() on the CPU's threads, cuda(stream) as launches in the stream that torch works in.
template <typename Cpu, typename Cuda>
void run_on(int device, int64_t bytes, const Cpu& cpu, const Cuda& cuda) {
  if (device == kCpu) return run_native(bytes, cpu);
#if defined(PYACCEL_CUDA)
  const CudaDevice current(device);
  cuda(reader().stream_of(device));
#else
  (void)cuda;
  throw std::invalid_argument("this build has no CUDA kernels");
#endif
}

inline bool touch(const void* a, int64_t a_bytes, const void* b, int64_t b_bytes) {
  const auto x = reinterpret_cast<uintptr_t>(a), y = reinterpret_cast<uintptr_t>(b);
  return x < y + uintptr_t(b_bytes) && y < x + uintptr_t(a_bytes);
}

}  // namespace pyaccel
