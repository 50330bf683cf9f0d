// Splits the work over threads, decides on non-temporal stores.
#include <algorithm>

#include "linear_combination_cpu.h"
#include "noise_inputs.h"
#include "parallel.h"

namespace pyaccel {
namespace {

bool outputs_aligned(const Combination& job, int64_t element) {
  for (int a = 0; a < job.n; ++a)
    if (!line_aligned(job.out[a], job.out_dtype[a], element)) return false;
  return true;
}

}  // namespace

void linear_combination_cpu(const Combination& job, const float* c32, const CpuKernel& kernel, int threads) {
  const int64_t total = job.batch * job.inner;
  if (total == 0) return;
  int64_t bytes = 0;
  bool f64 = false;
  for (int j = 0; j < job.k; ++j) bytes += total * size_of(job.in_dtype[j]), f64 |= job.in_dtype[j] == DType::f64;
  for (int a = 0; a < job.n; ++a) bytes += total * size_of(job.out_dtype[a]), f64 |= job.out_dtype[a] == DType::f64;
  const bool stream = bytes > streaming_threshold();

  const auto stretch = [&](const Combination& part, int64_t sample, int64_t begin, int64_t end) {
    const int64_t c = sample * job.coefficient_stride;
    if (f64) {
      kernel.f64(part, job.coefficients + c, begin, end);
    } else {
      kernel.f32(part, c32 + c, begin, end, stream && outputs_aligned(part, begin));
    }
  };
  const auto each_sample = [&](int64_t begin, int64_t end, const auto& f) {
    for (int64_t i = begin; i < end;) {
      const int64_t sample = i / job.inner;
      const int64_t stop = std::min(end, (sample + 1) * job.inner);
      f(sample, i, stop);
      i = stop;
    }
  };
  const auto work = [&](int64_t begin, int64_t end) {
    if (job.streams == 0) {
      each_sample(begin, end, [&](int64_t sample, int64_t i, int64_t stop) { stretch(job, sample, i, stop); });
    } else {
      NoiseInputs noise(job, kernel, stream);
      each_sample(begin, end, [&](int64_t sample, int64_t i, int64_t stop) { noise.run(sample, i, stop, stretch); });
    }
    finish_stores(stream);
  };

  split(total, worthwhile_threads(threads, bytes + total * job.streams * kBytesOfNormal), work);
}

}  // namespace pyaccel
