// quantize over threads, by rows.
#include "../quantize.h"

#include "caching_cpu.h"
#include "parallel.h"

namespace pyaccel {

void quantize_cpu(const Quantization& job, const CpuKernel& kernel, int threads) {
  const int64_t each = size_of(job.x_dtype) + (job.minus != nullptr ? size_of(job.minus_dtype) : 0) + 1;
  split(
      job.rows, worthwhile_threads(threads, job.rows * job.width * each),
      [&](int64_t begin, int64_t end) { kernel.quantize_rows(job, begin, end); }, 1);
}

}  // namespace pyaccel
