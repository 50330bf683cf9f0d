// The CPU side of ema_update.
#pragma once

#include "cpu_kernel.h"

namespace pyaccel {

void ema_update_cpu(const EmaUpdate& job, const CpuKernel& kernel, int threads);

}  // namespace pyaccel
