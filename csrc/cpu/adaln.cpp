// adaln over threads, by rows.
#include "../adaln.h"

#include "adaln_cpu.h"
#include "parallel.h"
#include "room.h"

namespace pyaccel {
void adaln_cpu(AdaLN job, const CpuKernel& kernel, int threads) {
  if (job.rows == 0 || job.width == 0) return;
  int64_t each = size_of(job.dtype) * (job.branch != nullptr ? 3 : 2);
  bool wide = job.dtype == DType::f64;
  if (job.branch != nullptr) each += size_of(job.branch_dtype), wide |= job.branch_dtype == DType::f64;
  for (RowOperand* operand : {&job.gate, &job.scale, &job.shift, &job.weight, &job.bias}) {
    if (operand->data == nullptr) {
      operand->inner = 1, operand->repeats = job.rows;  // one entry
    } else {
      wide |= operand->dtype == DType::f64;
    }
  }
  const int64_t bytes = job.rows * job.width * each;
  const bool lines = job.width * size_of(job.dtype) % 64 == 0 && line_aligned(job.out, job.dtype, 0) &&
                     (job.sum == nullptr || line_aligned(job.sum, job.dtype, 0));
  job.stream = lines && bytes > streaming_threshold();
  const auto work = [&](int64_t begin, int64_t end) {
    if (wide) {
      kernel.adaln_f64(job, begin, end, Room<double>(4 * job.width).data());
    } else {
      kernel.adaln_f32(job, begin, end, Room<float>(4 * job.width).data());
    }
    finish_stores(job.stream);
  };
  split(job.rows, worthwhile_threads(threads, bytes), work, 1);
}

}  // namespace pyaccel
