// relative_l1 over threads, in blocks whose sums are added up in their order: so the result does not depend on threads.
#include "../relative_l1.h"

#include <algorithm>
#include <vector>

#include "caching_cpu.h"
#include "parallel.h"

namespace pyaccel {

void relative_l1_cpu(const RelativeL1& job, const CpuKernel& kernel, int threads, double sums[2]) {
  constexpr int64_t block = int64_t(1) << 15;
  const int64_t bytes = job.total * (size_of(job.a_dtype) + size_of(job.b_dtype));
  const bool stream = bytes > streaming_threshold();
  std::vector<double> partial(size_t(2 * ((job.total + block - 1) / block)));
  const auto work = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i += block) {
      double own[2] = {};
      kernel.l1_sums(job, i, std::min(end, i + block), stream, own);
      std::copy(own, own + 2, partial.data() + 2 * (i / block));
    }
  };
  split(job.total, worthwhile_threads(threads, bytes), work, block);
  sums[0] = sums[1] = 0;
  for (size_t i = 0; i < partial.size(); ++i) sums[i % 2] += partial[i];
}

}  // namespace pyaccel
