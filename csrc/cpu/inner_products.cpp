// inner_products over threads, in blocks whose sums are added up in their order: so the result does not depend on
// threads.
#include "../inner_products.h"

#include <algorithm>
#include <vector>

#include "inner_products_cpu.h"
#include "parallel.h"

namespace pyaccel {

void inner_products_cpu(const InnerProducts& job, const CpuKernel& kernel, int threads, double* sums) {
  constexpr int64_t block = int64_t(1) << 14;
  const int64_t pairs = int64_t(job.n) * job.k, each = (job.inner + block - 1) / block, blocks = job.batch * each;
  std::fill(sums, sums + job.batch * pairs, 0.0);
  int64_t bytes = 0;
  bool f64 = false;
  const auto count = [&](DType d) { bytes += job.batch * job.inner * size_of(d), f64 |= d == DType::f64; };
  for (int i = 0; i < job.n; ++i) count(job.left_dtype[i]);
  for (int j = 0; j < job.k; ++j) count(job.right_dtype[j]);
  std::vector<double> partial(size_t(blocks * pairs));
  const auto work = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t sample = i / each * job.inner, from = i % each * block;
      kernel.inner_products(job, sample + from, sample + std::min(job.inner, from + block), f64,
                            partial.data() + i * pairs);
    }
  };
  split(blocks, worthwhile_threads(threads, bytes), work, 1);
  for (int64_t i = 0; i < blocks; ++i)
    for (int64_t p = 0; p < pairs; ++p) sums[i / each * pairs + p] += partial[size_t(i * pairs + p)];
}

}  // namespace pyaccel
