// Which instruction sets there are.
#include "cpu_kernel.h"

namespace pyaccel {

const CpuKernel* const* available_kernels() {
  static const CpuKernel* kernels[5] = {};
  static const bool once = [] {
    const CpuKernel** next = kernels;
#if defined(PYACCEL_X86)
    __builtin_cpu_init();
    const bool fma = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    const bool wide = fma && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    if (wide && __builtin_cpu_supports("avx512bf16")) *next++ = &kernel_avx512bf16;
    if (wide) *next++ = &kernel_avx512;
    if (fma) *next++ = &kernel_avx2;
#endif
    *next = &kernel_baseline;
    return true;
  }();
  (void)once;
  return kernels;
}

}  // namespace pyaccel
