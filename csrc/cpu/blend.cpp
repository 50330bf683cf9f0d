// blend over threads, in runs along which the mask goes on without a jump.
#include "../blend.h"

#include <algorithm>

#include "epilogues_cpu.h"
#include "parallel.h"

namespace pyaccel {

void blend_cpu(const Blend& job, const CpuKernel& kernel, int threads) {
  int64_t bytes = job.total * size_of(job.out_dtype);
  for (const DType d : job.in_dtype) bytes += job.total * size_of(d);
  const bool stream = bytes > streaming_threshold();
  split(job.total, worthwhile_threads(threads, bytes), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end;) {
      const int64_t count = std::min(end - i, job.inner - i % job.inner);
      const int64_t m = i / (job.inner * job.repeats) * job.inner + i % job.inner;
      kernel.blend(job, i, m, count, stream && line_aligned(job.out, job.out_dtype, i));
      i += count;
    }
    finish_stores(stream);
  });
}

}  // namespace pyaccel
