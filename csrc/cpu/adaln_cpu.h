// The CPU side of what transformer blocks modulate: drivers that thread and decide on non-temporal stores.
#pragma once

#include "cpu_kernel.h"

namespace pyaccel {

// A present operand says which rows share an entry; those of an absent one, and stream, are set here.
void adaln_cpu(AdaLN job, const CpuKernel& kernel, int threads);

void norm_rope_cpu(const NormRope& job, const CpuKernel& kernel, int threads);

}  // namespace pyaccel
