// What feature caches remember, over threads.
#include <vector>

#include "parallel.h"
#include "remembered_cpu.h"

namespace pyaccel {

void quantize_rows_cpu(const QuantizeRows& job, const CpuKernel& kernel, int threads) {
  const int64_t bytes = job.rows * job.width * (1 + size_of(job.x_dtype) + (job.minus ? size_of(job.minus_dtype) : 0));
  split(job.rows, worthwhile_threads(threads, bytes),
        [&](int64_t begin, int64_t end) { kernel.quantize_rows(job, begin, end); });
}

void gated_rows_cpu(const GatedRows& job, const CpuKernel& kernel, int threads) {
  int64_t each = size_of(job.out_dtype) + job.quantized + (job.residual ? size_of(job.residual_dtype) : 0);
  for (int j = 0; j < job.plain; ++j) each += size_of(job.x_dtype[j]);
  split(job.rows, worthwhile_threads(threads, job.rows * job.width * each),
        [&](int64_t begin, int64_t end) { kernel.gated_rows(job, begin, end); });
}

std::pair<double, double> relative_l1_cpu(const RelativeL1& job, const CpuKernel& kernel, int threads) {
  constexpr int64_t part = 1 << 16;
  const int64_t parts = (job.total + part - 1) / part;
  std::vector<double> sums(size_t(2 * parts), 0.0);
  const int64_t bytes = job.total * (size_of(job.a_dtype) + size_of(job.b_dtype));
  split(parts, worthwhile_threads(threads, bytes), [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      const int64_t stop = (p + 1) * part < job.total ? (p + 1) * part : job.total;
      kernel.relative_l1_sums(job, p * part, stop, sums.data() + 2 * p);
    }
  });
  std::pair<double, double> total{0, 0};
  for (int64_t p = 0; p < parts; ++p) {
    total.first += sums[size_t(2 * p)];
    total.second += sums[size_t(2 * p + 1)];
  }
  return total;
}

}  // namespace pyaccel
