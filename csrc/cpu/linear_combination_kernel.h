// The loop of linear_combination over one stretch of elements, for whichever Vec was included before this file.
#pragma once

#include "../linear_combination.h"
#include "linear_combination_cpu.h"
#include "operands.h"

namespace pyaccel {
namespace {

// Outputs [first, first + N) in float32, U registers of each at a time, from element i on; returns where it stopped,
// less than U registers before the end.
template <int N, int U>
PYACCEL_HD int64_t sweep_f32(const Combination& job, const float* c, int first, int64_t i, int64_t end, bool stream) {
  constexpr int step = U * Vec::width;
  const int k = job.k;
  for (; i + step <= end; i += step) {
    Vec sum[N][U];
    for (int a = 0; a < N; ++a)
      for (int u = 0; u < U; ++u) sum[a][u] = Vec::zero();
    for (int j = 0; j < k; ++j) {
      // The type differs between inputs, never between iterations of i: a branch that is always predicted.
      with_type(job.in_dtype[j], job.in[j], i, [&](auto p) {
        if constexpr (sizeof(*p) != sizeof(double)) {
          if (stream) prefetch<step * sizeof(*p)>(reinterpret_cast<const char*>(p) + kAhead);
          for (int u = 0; u < U; ++u) {
            const Vec x = Vec::load(p + u * Vec::width);
            for (int a = 0; a < N; ++a) sum[a][u].add_scaled(c[(first + a) * k + j], x);
          }
        }
      });
    }
    for (int a = 0; a < N; ++a) store_floats<U>(sum[a], job.out_dtype[first + a], job.out[first + a], i, stream);
  }
  return i;
}

// Elements [begin, end) of outputs [first, first + N) in float32.
template <int N, int U>
void stretch_f32(const Combination& job, const float* c, int first, int64_t begin, int64_t end, bool stream) {
  int64_t i = sweep_f32<N, U>(job, c, first, begin, end, stream);
  i = sweep_f32<N, 1>(job, c, first, i, end, false);
  const int k = job.k;
  for (; i < end; ++i) {
    float sum[N] = {};
    for (int j = 0; j < k; ++j) {
      with_type(job.in_dtype[j], job.in[j], i, [&](auto p) {
        const float x = float(to_double(*p));
        for (int a = 0; a < N; ++a) sum[a] += c[(first + a) * k + j] * x;
      });
    }
    for (int a = 0; a < N; ++a) store_number(sum[a], job.out_dtype[first + a], job.out[first + a], i);
  }
}

void group_f32(const Combination& job, const float* c, int first, int count, int64_t begin, int64_t end, bool stream) {
  // Accumulators of all outputs, one input and one coefficient have to fit the registers.
  constexpr int wide = Vec::registers >= 32 ? 4 : 2;
  switch (count) {
    case 1:
      if (stream) {  // longer runs of each input and of the output suit the memory
        stretch_f32<1, 4 * wide>(job, c, first, begin, end, stream);
      } else {
        stretch_f32<1, 4>(job, c, first, begin, end, stream);
      }
      break;
    case 2:
      stretch_f32<2, 4>(job, c, first, begin, end, stream);
      break;
    case 3:
      stretch_f32<3, wide>(job, c, first, begin, end, stream);
      break;
    default:
      stretch_f32<4, wide>(job, c, first, begin, end, stream);
      break;
  }
}

// All outputs, in groups that share one read of the inputs; with several groups, in blocks that stay in the cache.
void all_f32(const Combination& job, const float* c, int64_t begin, int64_t end, bool stream) {
  const int64_t block = job.n <= kMostOutputs ? end - begin : 1024;
  for (int64_t i = begin; i < end; i += block) {
    const int64_t stop = end - i < block ? end : i + block;
    for (int first = 0; first < job.n; first += kMostOutputs) group_f32(job, c, first, job.n - first, i, stop, stream);
  }
}

// Elements [begin, end) of every output in float64, in blocks that stay in the first cache.
void stretch_f64(const Combination& job, const double* c, int64_t begin, int64_t end) {
  constexpr int block = 128;
  for (int64_t i = begin; i < end; i += block) {
    const int count = int(end - i < block ? end - i : block);
    double sums[kMostOutputs][block];
    for (int first = 0; first < job.n; first += kMostOutputs) {
      const int group = job.n - first < kMostOutputs ? job.n - first : kMostOutputs;
      for (int a = 0; a < group; ++a)
        for (int e = 0; e < count; ++e) sums[a][e] = 0;
      for (int j = 0; j < job.k; ++j) {
        with_type(job.in_dtype[j], job.in[j], i, [&](auto p) {
          for (int a = 0; a < group; ++a) {
            const double factor = c[(first + a) * job.k + j];
            for (int e = 0; e < count; ++e) sums[a][e] += factor * to_double(p[e]);
          }
        });
      }
      for (int a = 0; a < group; ++a)
        for (int e = 0; e < count; ++e) store_number(sums[a][e], job.out_dtype[first + a], job.out[first + a], i + e);
    }
  }
}

}  // namespace
}  // namespace pyaccel
