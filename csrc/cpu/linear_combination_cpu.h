// The CPU side of linear_combination: the driver that threads and decides on non-temporal stores.
#pragma once

#include "../linear_combination.h"
#include "cpu_kernel.h"

namespace pyaccel {

// Outputs that share one read of the inputs; more are done in groups of this many. When there are several groups, no
// output may be an input: a later group would read what an earlier one wrote.
constexpr int kMostOutputs = 4;

// Blocks of normals are drawn in multiples of this many.
constexpr int kRoundUp = 16;

// One normal takes as long as so many bytes read or written, roughly.
constexpr int64_t kBytesOfNormal = 16;

// c32 are the coefficients in float32, used unless an operand is float64.
void linear_combination_cpu(const Combination& job, const float* c32, const CpuKernel& kernel, int threads);

}  // namespace pyaccel
