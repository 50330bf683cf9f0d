// ema_update over threads: each gets an equal share of all elements, wherever one tensor ends and the next begins.
#include "../ema.h"

#include <algorithm>
#include <vector>

#include "ema_cpu.h"
#include "parallel.h"

namespace pyaccel {

void ema_update_cpu(const EmaUpdate& job, const CpuKernel& kernel, int threads) {
  std::vector<int64_t> begins(size_t(job.count) + 1);  // of the tensors, as if they lay one after the other
  for (int64_t t = 0; t < job.count; ++t) begins[size_t(t) + 1] = begins[size_t(t)] + job.sizes[t];
  const int64_t bytes = job.bytes();
  const bool stream = bytes > streaming_threshold();
  split(begins.back(), worthwhile_threads(threads, bytes), [&](int64_t begin, int64_t end) {
    if (begin >= end) return;
    int64_t t = std::upper_bound(begins.begin(), begins.end(), begin) - begins.begin() - 1;
    for (; t < job.count && begins[size_t(t)] < end; ++t) {
      const int64_t from = std::max(begin - begins[size_t(t)], int64_t(0));
      const int64_t to = std::min(end - begins[size_t(t)], job.sizes[t]);
      if (from < to) kernel.ema(job, t, from, to, stream);
    }
  });
}

}  // namespace pyaccel
