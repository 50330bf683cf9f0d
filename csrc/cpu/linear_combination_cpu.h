// The CPU side of linear_combination: one CpuKernel per instruction set, and the driver that chooses and threads.
#pragma once

#include "../linear_combination.h"

namespace pyaccel {

// Outputs that share one read of the inputs; more are done in groups of this many. When there are several groups, no
// output may be an input: a later group would read what an earlier one wrote.
constexpr int kMostOutputs = 4;

struct CpuKernel {
  const char* name;
  // Elements [begin, end) of one sample's outputs; c is that sample's [n, k].
  void (*f32)(const Combination&, const float* c, int64_t begin, int64_t end, bool stream);
  void (*f64)(const Combination&, const double* c, int64_t begin, int64_t end);
};

extern const CpuKernel kernel_baseline;
#if defined(PYACCEL_X86)
extern const CpuKernel kernel_avx2;
extern const CpuKernel kernel_avx512;
extern const CpuKernel kernel_avx512bf16;
#endif

// Instruction sets that this build has and this machine runs, best first; null-terminated.
const CpuKernel* const* available_kernels();

// c32 are the coefficients in float32, used unless an operand is float64.
void linear_combination_cpu(const Combination& job, const float* c32, const CpuKernel& kernel, int threads);

}  // namespace pyaccel
