// gated_combination over threads, in stretches along which neither the gate jumps nor a scale changes.
#include "../gated_combination.h"

#include <algorithm>

#include "../scratch.h"
#include "caching_cpu.h"
#include "parallel.h"

namespace pyaccel {

void gated_combination_cpu(const GatedCombination& job, const CpuKernel& kernel, int threads) {
  if (job.total == 0) return;
  int64_t bytes = 0;
  bool wide = false, scaled = false;
  const auto count = [&](DType d) { bytes += job.total * size_of(d), wide |= d == DType::f64; };
  for (int j = 0; j < job.k; ++j) count(job.in_dtype[j]), scaled |= job.scales[j] != nullptr;
  if (job.residual != nullptr) count(job.residual_dtype);
  count(job.out_dtype);
  wide |= job.gate != nullptr && job.gate_dtype == DType::f64;
  const bool constant = job.gate != nullptr && job.inner == 1 && job.repeats > 1;
  const bool stream = bytes > streaming_threshold();
  const auto run = wide ? kernel.gated_f64 : kernel.gated_f32;

  split(job.total, worthwhile_threads(threads, bytes), [&](int64_t begin, int64_t end) {
    Scratch<double> c(size_t(job.k));
    Scratch<float> c32(size_t(job.k));
    const auto weigh = [&](int64_t row, double gate) {
      for (int j = 0; j < job.k; ++j) {
        c[j] = job.weights[j] * gate * (job.scales[j] != nullptr ? job.scales[j][row] : 1.0f);
        c32[j] = float(c[j]);
      }
    };
    if (!scaled && !constant) weigh(0, 1);
    for (int64_t i = begin; i < end;) {
      GatedStretch part{i, end, c.data(), c32.data(), nullptr, 0, false};
      const int64_t row = scaled ? i / job.row : 0;
      if (scaled) part.end = std::min(part.end, (row + 1) * job.row);
      double gate = 1;
      if (constant) {
        gate = number_at(job.gate_dtype, job.gate, i / job.repeats);
        part.end = std::min(part.end, (i / job.repeats + 1) * job.repeats);
      } else if (job.gate != nullptr) {
        part.gate = job.gate;
        part.shift = i / (job.inner * job.repeats) * job.inner + i % job.inner - i;
        part.end = std::min(part.end, i + job.inner - i % job.inner);
      }
      if (scaled || constant) weigh(row, gate);
      part.stream = stream && line_aligned(job.out, job.out_dtype, i);
      run(job, part);
      i = part.end;
    }
    finish_stores(stream);
  });
}

}  // namespace pyaccel
