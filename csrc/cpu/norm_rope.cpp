// norm_rope over threads, by tokens.
#include "../norm_rope.h"

#include "adaln_cpu.h"
#include "parallel.h"
#include "room.h"

namespace pyaccel {

void norm_rope_cpu(const NormRope& job, const CpuKernel& kernel, int threads) {
  const int64_t all = job.heads * job.width, room = 2 * all + 2 * job.width;
  bool wide = job.dtype == DType::f64;
  for (const RowOperand* operand : {&job.weight, &job.cos, &job.sin})
    wide |= operand->data != nullptr && operand->dtype == DType::f64;
  const auto work = [&](int64_t begin, int64_t end) {
    if (begin >= end) return;
    if (wide) {
      kernel.norm_rope_f64(job, begin, end, Room<double>(room).data());
    } else {
      kernel.norm_rope_f32(job, begin, end, Room<float>(room).data());
    }
  };
  split(job.tokens, worthwhile_threads(threads, 2 * job.tokens * all * size_of(job.dtype)), work, 1);
}

}  // namespace pyaccel
