// The CPU side of the gradient of linear_combination to its coefficients: the driver that threads.
#pragma once

#include "cpu_kernel.h"

namespace pyaccel {

// sums [batch, n, k]; the same for any number of threads.
void inner_products_cpu(const InnerProducts& job, const CpuKernel& kernel, int threads, double* sums);

}  // namespace pyaccel
