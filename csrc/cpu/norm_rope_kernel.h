// The loops of norm_rope (../norm_rope.h), for whichever Vec was included before this file.
#pragma once

#include "../norm_rope.h"
#include "adaln_kernel.h"

namespace pyaccel {
namespace {

// y = x over its root mean square, times the weight, of one group of elements.
template <typename Real, typename T>
PYACCEL_HD void norm_group(const T* x, const Real* weight, int64_t count, double eps, Real* y) {
  Sums<Real> squares;
  sweep<Real>(count, [&](auto lanes, auto units, int64_t i) PYACCEL_INLINED {
    using V = decltype(lanes);
    for (int u = 0; u < units; ++u) {
      const V v = V::load(x + i + u * V::width);
      squares.add(u, v * v);
    }
  });
  const Real inverse = Real(inverse_deviation(squares.total(), count, eps));
  sweep<Real>(count, [&](auto lanes, auto units, int64_t i) PYACCEL_INLINED {
    using V = decltype(lanes);
    for (int u = 0; u < units; ++u) {
      const int64_t at = i + u * V::width;
      (V::load(x + at) * V::all(inverse) * V::load(weight + at)).store(y + at, false);
    }
  });
}

// One head in place. The compiler makes vectors of both loops.
template <typename Real>
PYACCEL_HD void turn_head(const Real* __restrict__ cos, const Real* __restrict__ sin, int64_t width, bool neighbours,
                          Real* __restrict__ y) {
  const int64_t half = width / 2;
  if (neighbours) {
    for (int64_t i = 0; i < width; i += 2)
      turn(y[i], y[i + 1], cos[i], sin[i], cos[i + 1], sin[i + 1], y + i, y + i + 1);
  } else {
    for (int64_t i = 0; i < half; ++i)
      turn(y[i], y[i + half], cos[i], sin[i], cos[i + half], sin[i + half], y + i, y + i + half);
  }
}

// Tokens [begin, end). scratch: room for the heads of a token twice, and for two heads.
template <typename Real>
PYACCEL_HD void norm_rope_tokens(const NormRope& job, int64_t begin, int64_t end, Real* scratch) {
  const int64_t all = job.heads * job.width, group = job.across ? all : job.width;
  Real *y = scratch, *weight = y + all, *cos = weight + all, *sin = cos + job.width;
  const auto put = [](auto, auto b) { return b; };
  fill<Real>(weight, group, 1);
  if (job.weight.data != nullptr) update(job.weight, 0, group, weight, put);
  with_real_type<Real>(job.dtype, job.x, 0, [&](auto x) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(x)>>;
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t i = 0; i < all; i += group) norm_group<Real>(x + t * all + i, weight, group, job.eps, y + i);
      if (job.cos.data != nullptr) {
        update(job.cos, job.cos.entry(t), job.width, cos, put);
        update(job.sin, job.sin.entry(t), job.width, sin, put);
        for (int64_t h = 0; h < job.heads; ++h) turn_head(cos, sin, job.width, job.neighbours, y + h * job.width);
      }
      T* out = static_cast<T*>(job.out) + t * all;
      sweep<Real>(all, [&](auto lanes, auto units, int64_t i) PYACCEL_INLINED {
        using V = decltype(lanes);
        V v[units];
        for (int u = 0; u < units; ++u) v[u] = V::load(y + i + u * V::width);
        store_lanes<V, units>(v, out + i, false);
      });
    }
  });
}

void norm_rope_f32(const NormRope& job, int64_t begin, int64_t end, float* scratch) {
  norm_rope_tokens(job, begin, end, scratch);
}
void norm_rope_f64(const NormRope& job, int64_t begin, int64_t end, double* scratch) {
  norm_rope_tokens(job, begin, end, scratch);
}

}  // namespace
}  // namespace pyaccel
