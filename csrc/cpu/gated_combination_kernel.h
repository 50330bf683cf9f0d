// The loops of gated_combination (../gated_combination.h), for whichever Vec was included before this file.
#pragma once

#include "../gated_combination.h"
#include "operands.h"

namespace pyaccel {
namespace {

// U registers at a time from element i on; returns where it stopped, less than U registers before the end.
template <int U>
PYACCEL_HD int64_t sweep_gated(const GatedCombination& job, const GatedStretch& part, int64_t i, bool stream) {
  constexpr int step = U * Vec::width;
  const auto each = [&](DType dtype, const void* p, int64_t from, bool ahead, auto f) {
    with_any_type(dtype, p, from, [&](auto typed) {
      if constexpr (sizeof(*typed) != sizeof(double)) {
        if (ahead) prefetch<step * sizeof(*typed)>(reinterpret_cast<const char*>(typed) + kAhead);
        for (int u = 0; u < U; ++u) f(u, Vec::load(typed + u * Vec::width));
      }
    });
  };
  for (; i + step <= part.end; i += step) {
    Vec sum[U];
    for (int u = 0; u < U; ++u) sum[u] = Vec::zero();
    for (int j = 0; j < job.k; ++j) {
      const float c = part.c32[j];
      each(job.in_dtype[j], job.in[j], i, stream, [&](int u, Vec x) { sum[u].add_scaled(c, x); });
    }
    if (part.gate != nullptr)
      each(job.gate_dtype, part.gate, i + part.shift, false, [&](int u, Vec g) { sum[u] = sum[u] * g; });
    if (job.residual != nullptr)
      each(job.residual_dtype, job.residual, i, stream, [&](int u, Vec r) { sum[u] = sum[u] + r; });
    store_floats<U>(sum, job.out_dtype, job.out, i, stream);
  }
  return i;
}

// The same in Real numbers, in blocks that stay in the first cache.
template <typename Real>
PYACCEL_HD void blocks_gated(const GatedCombination& job, const GatedStretch& part, const Real* c, int64_t i) {
  constexpr int block = 128;
  for (; i < part.end; i += block) {
    const int count = int(part.end - i < block ? part.end - i : block);
    const auto each = [&](DType dtype, const void* p, int64_t from, auto f) {
      with_any_type(dtype, p, from, [&](auto typed) {
        for (int e = 0; e < count; ++e) f(e, Real(to_double(typed[e])));
      });
    };
    Real sum[block];
    for (int e = 0; e < count; ++e) sum[e] = 0;
    for (int j = 0; j < job.k; ++j) each(job.in_dtype[j], job.in[j], i, [&](int e, Real x) { sum[e] += c[j] * x; });
    if (part.gate != nullptr) each(job.gate_dtype, part.gate, i + part.shift, [&](int e, Real g) { sum[e] *= g; });
    if (job.residual != nullptr) each(job.residual_dtype, job.residual, i, [&](int e, Real r) { sum[e] += r; });
    for (int e = 0; e < count; ++e) store_number(sum[e], job.out_dtype, job.out, i + e);
  }
}

void gated_f32(const GatedCombination& job, const GatedStretch& part) {
  int64_t i = part.begin;
  // Beyond the cache longer runs of each input suit the memory, as far as the registers go.
  if (part.stream && Vec::registers >= 32) i = sweep_gated<16>(job, part, i, true);
  i = sweep_gated<8>(job, part, i, part.stream);
  i = sweep_gated<1>(job, part, i, false);
  blocks_gated(job, part, part.c32, i);
}

void gated_f64(const GatedCombination& job, const GatedStretch& part) { blocks_gated(job, part, part.c, part.begin); }

}  // namespace
}  // namespace pyaccel
