// The loops of blend (../blend.h), for whichever Vec was included before this file.
#pragma once

#include "../blend.h"
#include "operands.h"

namespace pyaccel {
namespace {

// Registers of an operand of any type but float64, from element i on.
template <int U>
PYACCEL_HD void load_operand(const Blend& job, Blend::Operand which, int64_t i, bool stream, Vec* to) {
  with_type(job.in_dtype[which], job.in[which], i, [&](auto p) {
    if constexpr (sizeof(*p) != sizeof(double)) {
      if (stream) prefetch<U * Vec::width * sizeof(*p)>(reinterpret_cast<const char*>(p) + kAhead);
      for (int u = 0; u < U; ++u) to[u] = Vec::load(p + u * Vec::width);
    }
  });
}

template <int U>
PYACCEL_HD int64_t sweep_blend(const Blend& job, int64_t i, int64_t m, int64_t end, bool stream) {
  constexpr int step = U * Vec::width;
  const Vec one = Vec::all(1), sigma = Vec::all(float(job.sigma));
  for (; i + step <= end; i += step, m += step) {
    Vec mask[U], known[U], v[U];
    load_operand<U>(job, Blend::kNoise, i, stream, known);
    load_operand<U>(job, Blend::kImage, i, stream, v);
    load_operand<U>(job, Blend::kMask, m, false, mask);
    for (int u = 0; u < U; ++u) {
      known[u] = known[u] * sigma;
      known[u].add_scaled(float(job.alpha), v[u]);
      known[u] = (one - mask[u]) * known[u];
    }
    load_operand<U>(job, Blend::kX, i, stream, v);
    for (int u = 0; u < U; ++u) known[u].add_product(mask[u], v[u]);
    store_floats<U>(known, job.out_dtype, job.out, i, stream);
  }
  return i;
}

void blend_elements(const Blend& job, int64_t i, int64_t m, int64_t count, bool stream) {
  const int64_t end = i + count, shift = m - i;
  bool wide = job.out_dtype == DType::f64;
  for (const DType d : job.in_dtype) wide |= d == DType::f64;
  if (!wide) {
    i = sweep_blend<4>(job, i, m, end, stream);
    i = sweep_blend<1>(job, i, i + shift, end, false);
  }
  for (; i < end; ++i) {
    const double value = wide ? blended_element<double>(job, i, i + shift) : blended_element<float>(job, i, i + shift);
    store_number(value, job.out_dtype, job.out, i);
  }
}

}  // namespace
}  // namespace pyaccel
