#include "cpu/adaln_cpu.h"
#include "cpu/caching_cpu.h"
#include "cpu/ema_cpu.h"
#include "cpu/epilogues_cpu.h"
#include "cpu/inner_products_cpu.h"
#include "cpu/linear_combination_cpu.h"
#include "engine.h"

using namespace pyaccel;

namespace engine {
namespace {

constexpr int threads = 2;
const CpuKernel* chosen = nullptr;

}  // namespace

std::vector<std::string> variants() {
  std::vector<std::string> names;
  for (const CpuKernel* const* k = available_kernels(); *k != nullptr; ++k) names.emplace_back((*k)->name);
  return names;
}

void use(const std::string& variant) {
  for (const CpuKernel* const* k = available_kernels(); *k != nullptr; ++k)
    if (variant == (*k)->name) chosen = *k;
}

void linear_combination(const Combination& job) {
  const int64_t count = job.n * (job.k + job.streams) * (job.coefficient_stride == 0 ? 1 : job.batch);
  const std::vector<float> c32(job.coefficients, job.coefficients + count);
  linear_combination_cpu(job, c32.data(), *chosen, threads);
}
void gated_combination(const GatedCombination& job) { gated_combination_cpu(job, *chosen, threads); }
void blend(const Blend& job) { blend_cpu(job, *chosen, threads); }
void ema_update(const EmaUpdate& job) { ema_update_cpu(job, *chosen, threads); }
void quantize(const Quantization& job) { quantize_cpu(job, *chosen, threads); }
void threshold(const Threshold& job) { threshold_cpu(job, *chosen, threads); }
void adaln(const AdaLN& job) { adaln_cpu(job, *chosen, threads); }
void norm_rope(const NormRope& job) { norm_rope_cpu(job, *chosen, threads); }
double relative_l1(const RelativeL1& job) {
  double sums[2];
  relative_l1_cpu(job, *chosen, threads, sums);
  return sums[0] / sums[1];
}
bool inner_products(const InnerProducts& job, double* sums) {
  inner_products_cpu(job, *chosen, threads, sums);
  return true;
}

}  // namespace engine
