// The CPU side of linear_combination: one CpuKernel per instruction set, and the driver that chooses and threads.
#pragma once

#include "../linear_combination.h"

namespace pyaccel {

// Outputs that share one read of the inputs; more are done in groups of this many. When there are several groups, no
// output may be an input: a later group would read what an earlier one wrote.
constexpr int kMostOutputs = 4;

// Blocks of normals are drawn in multiples of this many.
constexpr int kRoundUp = 16;

struct CpuKernel {
  const char* name;
  // Elements [begin, end) of one sample's outputs; c is that sample's [n, k]. Noise has become one of the k inputs.
  void (*f32)(const Combination&, const float* c, int64_t begin, int64_t end, bool stream);
  void (*f64)(const Combination&, const double* c, int64_t begin, int64_t end);
  // The normals of blocks [q, q + blocks) of a stream (../philox.h), four to a block; writes a multiple of kRoundUp
  // blocks.
  void (*normals)(uint64_t seed, uint64_t stream, uint64_t q, int64_t blocks, float* to);
};

extern const CpuKernel kernel_baseline;
#if defined(PYACCEL_X86)
extern const CpuKernel kernel_avx2;
extern const CpuKernel kernel_avx512;
extern const CpuKernel kernel_avx512bf16;
#endif

// Instruction sets that this build has and this machine runs, best first; null-terminated.
const CpuKernel* const* available_kernels();

// One normal takes as long as so many bytes read or written, roughly.
constexpr int64_t kBytesOfNormal = 16;

// c32 are the coefficients in float32, used unless an operand is float64.
void linear_combination_cpu(const Combination& job, const float* c32, const CpuKernel& kernel, int threads);

}  // namespace pyaccel
