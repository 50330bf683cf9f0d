// All loops of one instruction set, for whichever Vec was included before this file.
//
// Each instruction set compiles this file once, in a source file of its own. Everything here has internal linkage and
// nothing of the standard library is instantiated, so that the linker cannot put AVX-512 code in anyone else's hands.
#pragma once

#include "adaln_kernel.h"
#include "blend_kernel.h"
#include "cpu_kernel.h"
#include "ema_kernel.h"
#include "gated_combination_kernel.h"
#include "inner_products_kernel.h"
#include "linear_combination_kernel.h"
#include "norm_rope_kernel.h"
#include "normals_kernel.h"
#include "quantize_kernel.h"
#include "relative_l1_kernel.h"
#include "threshold_kernel.h"

#define PYACCEL_DEFINE_CPU_KERNELS(ISA)                                                                              \
  namespace pyaccel {                                                                                                \
  const CpuKernel kernel_##ISA{#ISA,           all_f32,   stretch_f64, normals,       clamp_elements, sift_keys,     \
                               blend_elements, gated_f32, gated_f64,   l1_sums,       inner_products, quantize_rows, \
                               ema_elements,   adaln_f32, adaln_f64,   norm_rope_f32, norm_rope_f64};                \
  }
