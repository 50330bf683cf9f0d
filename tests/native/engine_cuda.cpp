#include "cuda/kernels.h"
#include "engine.h"

using namespace pyaccel;

namespace engine {
namespace {

bool table = false;  // whether coefficients are handed over as memory of the device

}  // namespace

std::vector<std::string> variants() { return {"coefficients in the parameters", "coefficients in a table"}; }
void use(const std::string& variant) { table = variant == variants()[1]; }

void linear_combination(const Combination& job) {
  if (!table) return linear_combination_cuda(job, nullptr, nullptr);
  const int64_t count = job.n * (job.k + job.streams) * (job.coefficient_stride == 0 ? 1 : job.batch);
  const std::vector<double> c64(job.coefficients, job.coefficients + count);
  const std::vector<float> c32(c64.begin(), c64.end());
  bool wide = false;
  for (int j = 0; j < job.k; ++j) wide |= job.in_dtype[j] == DType::f64;
  for (int a = 0; a < job.n; ++a) wide |= job.out_dtype[a] == DType::f64;
  Combination there = job;
  there.coefficients = nullptr;
  linear_combination_cuda(there, wide ? static_cast<const void*>(c64.data()) : c32.data(), nullptr);
}
void gated_combination(const GatedCombination& job) { gated_combination_cuda(job, nullptr); }
void blend(const Blend& job) { blend_cuda(job, nullptr); }
void ema_update(const EmaUpdate& job) { ema_update_cuda(job, nullptr); }
void quantize(const Quantization& job) { quantize_cuda(job, nullptr); }
void threshold(const Threshold& job) {
  std::vector<double> scratch(size_t(job.batch * kSelectionBytes) / sizeof(double), -1);  // as bad as it can be
  threshold_cuda(job, scratch.data(), nullptr);
}
void adaln(const AdaLN& job) { adaln_cuda(job, nullptr); }
void norm_rope(const NormRope& job) { norm_rope_cuda(job, nullptr); }
double relative_l1(const RelativeL1& job) {
  const int64_t blocks = relative_l1_blocks(job.total);
  std::vector<double> partial(size_t(2 * blocks), -1);
  double quotient;
  relative_l1_partial_cuda(job, partial.data(), nullptr);
  relative_l1_quotient_cuda(partial.data(), blocks, &quotient, DType::f64, nullptr);
  return quotient;
}
bool inner_products(const InnerProducts&, double*) { return false; }

}  // namespace engine
