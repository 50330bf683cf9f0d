// The operations as the checks call them: by the CPU's kernels (engine_cpu.cpp), or by those of CUDA, on the CPU
// (engine_cuda.cpp).
#pragma once

#include <string>
#include <vector>

#include "adaln.h"
#include "blend.h"
#include "ema.h"
#include "gated_combination.h"
#include "inner_products.h"
#include "linear_combination.h"
#include "norm_rope.h"
#include "quantize.h"
#include "relative_l1.h"
#include "threshold.h"

namespace engine {

// The ways to run them, and a choice of one.
std::vector<std::string> variants();
void use(const std::string& variant);

void linear_combination(const pyaccel::Combination& job);
void gated_combination(const pyaccel::GatedCombination& job);
void blend(const pyaccel::Blend& job);
void ema_update(const pyaccel::EmaUpdate& job);
void quantize(const pyaccel::Quantization& job);
void threshold(const pyaccel::Threshold& job);
void adaln(const pyaccel::AdaLN& job);
void norm_rope(const pyaccel::NormRope& job);
double relative_l1(const pyaccel::RelativeL1& job);
// False where there is no kernel of it.
bool inner_products(const pyaccel::InnerProducts& job, double* sums);

}  // namespace engine
