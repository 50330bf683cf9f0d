// The CPU side of what feature caches need: drivers that thread and decide on non-temporal stores.
#pragma once

#include "cpu_kernel.h"

namespace pyaccel {

void gated_combination_cpu(const GatedCombination& job, const CpuKernel& kernel, int threads);

// sum |a - b| and sum |b|; the same for any number of threads.
void relative_l1_cpu(const RelativeL1& job, const CpuKernel& kernel, int threads, double sums[2]);

void quantize_cpu(const Quantization& job, const CpuKernel& kernel, int threads);

}  // namespace pyaccel
