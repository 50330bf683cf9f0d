// The CPU side of what feature caches remember.
#pragma once

#include <utility>

#include "cpu_kernel.h"

namespace pyaccel {

void quantize_rows_cpu(const QuantizeRows& job, const CpuKernel& kernel, int threads);
void gated_rows_cpu(const GatedRows& job, const CpuKernel& kernel, int threads);

// sum |a - b| and sum |b|; the same for any number of threads.
std::pair<double, double> relative_l1_cpu(const RelativeL1& job, const CpuKernel& kernel, int threads);

}  // namespace pyaccel
