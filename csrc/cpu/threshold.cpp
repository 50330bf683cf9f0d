// threshold over threads: several samples at a time where there are enough of them, else each by all threads.
#include "../threshold.h"

#include <algorithm>

#include "epilogues_cpu.h"
#include "parallel.h"

namespace pyaccel {
namespace {

void clamp_range(const Threshold& job, const CpuKernel& kernel, double s, bool divide, int64_t begin, int64_t end,
                 bool stream) {
  kernel.clamp(job, s, divide, begin, end - begin, stream && line_aligned(job.out, job.dtype, begin));
  finish_stores(stream);
}

void dynamic_sample(const Threshold& job, const CpuKernel& kernel, int64_t sample, bool stream, int threads) {
  const double s = limit_of(quantile_cpu(job, sample, kernel, threads), job.limit);
  const int64_t first = sample * job.inner;
  split(job.inner, threads,
        [&](int64_t begin, int64_t end) { clamp_range(job, kernel, s, true, first + begin, first + end, stream); });
}

}  // namespace

void threshold_cpu(const Threshold& job, const CpuKernel& kernel, int threads) {
  const int64_t total = job.batch * job.inner;
  if (total == 0) return;
  const int64_t bytes = 2 * total * size_of(job.dtype);
  const bool stream = bytes > streaming_threshold();
  if (job.ratio == 0) {
    split(total, worthwhile_threads(threads, bytes),
          [&](int64_t begin, int64_t end) { clamp_range(job, kernel, job.limit, false, begin, end, stream); });
    return;
  }
#if defined(_OPENMP)
  const int together = int(std::min<int64_t>(job.batch, worthwhile_threads(threads, 2 * bytes)));
  if (together > 1 && job.batch >= 2 * together) {
#pragma omp parallel for schedule(dynamic) num_threads(together)
    for (int64_t sample = 0; sample < job.batch; ++sample) dynamic_sample(job, kernel, sample, stream, 1);
    return;
  }
#endif
  threads = worthwhile_threads(threads, 2 * bytes / job.batch);
  for (int64_t sample = 0; sample < job.batch; ++sample) dynamic_sample(job, kernel, sample, stream, threads);
}

}  // namespace pyaccel
