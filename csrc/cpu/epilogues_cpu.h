// The CPU side of the maps at the end of a solver step: drivers that thread and decide on non-temporal stores.
#pragma once

#include "cpu_kernel.h"

namespace pyaccel {

void threshold_cpu(const Threshold& job, const CpuKernel& kernel, int threads);

// The ratio-quantile of |x| in one sample of job, which has elements; NaN where any of them is.
double quantile_cpu(const Threshold& job, int64_t sample, const CpuKernel& kernel, int threads);

void blend_cpu(const Blend& job, const CpuKernel& kernel, int threads);

}  // namespace pyaccel
