// The loops of quantize (../quantize.h), for whichever Vec was included before this file.
#pragma once

#include "../quantize.h"
#include "operands.h"

namespace pyaccel {
namespace {

// What is to be quantized of one row, element by element or in registers.
template <typename X, typename M>
struct Difference {
  const X* x;
  const M* minus;
  PYACCEL_HD float at(int64_t i) const { return to_float(x[i]) - to_float(minus[i]); }
  PYACCEL_HD Vec load(int64_t i) const { return Vec::load(x + i) - Vec::load(minus + i); }
  template <int Count>
  PYACCEL_HD void look_ahead(int64_t i) const {
    prefetch<Count * sizeof(X)>(reinterpret_cast<const char*>(x + i));
    prefetch<Count * sizeof(M)>(reinterpret_cast<const char*>(minus + i));
  }
};

template <typename X>
struct Alone {
  const X* x;
  PYACCEL_HD float at(int64_t i) const { return to_float(x[i]); }
  PYACCEL_HD Vec load(int64_t i) const { return Vec::load(x + i); }
  template <int Count>
  PYACCEL_HD void look_ahead(int64_t i) const {
    prefetch<Count * sizeof(X)>(reinterpret_cast<const char*>(x + i));
  }
};

template <typename Values>
PYACCEL_HD float row_scale(const Values& values, int64_t width, DType code_dtype) {
  constexpr int U = 4, step = U * Vec::width;
  const Vec zero = Vec::zero();
  Vec biggest[U], odd[U];  // odd: the sum of v * 0, which is NaN once a v is not finite
  for (int u = 0; u < U; ++u) biggest[u] = odd[u] = zero;
  int64_t i = 0;
  for (; i + step <= width; i += step) {
    values.template look_ahead<step>(i + kAhead / 4);
    for (int u = 0; u < U; ++u) {
      const Vec v = values.load(i + u * Vec::width);
      biggest[u] = Vec::max(Vec::abs(v), biggest[u]);
      odd[u].add_product(v, zero);
    }
  }
  float most = 0, sum = 0;
  for (int u = 0; u < U; ++u) {
    float lanes[Vec::width];
    biggest[u].store(lanes, false);
    for (const float x : lanes) most = x > most ? x : most;
    odd[u].store(lanes, false);
    for (const float x : lanes) sum += x;
  }
  for (; i < width; ++i) {
    const float v = values.at(i), size = v < 0 ? -v : v;
    most = size > most ? size : most;
    sum += v * 0.0f;
  }
  return scale_of(most, sum == 0, code_dtype);
}

template <typename Code, typename Values>
PYACCEL_HD void encode_row(const Values& values, int64_t width, float scale, Code* codes) {
  if (!(scale > 0)) {  // zeros, or NaN
    memset(codes, 0, size_t(width));
    return;
  }
  const Vec divisor = Vec::all(scale);
  int64_t i = 0;
  for (; i + 2 * Vec::width <= width; i += 2 * Vec::width) {
    values.template look_ahead<2 * Vec::width>(i + width);
    for (int u = 0; u < 2 * Vec::width; u += Vec::width) (values.load(i + u) / divisor).store(codes + i + u);
  }
  for (; i < width; ++i) from_float(values.at(i) / scale, codes + i);
}

template <typename Values>
PYACCEL_HD void quantize_row(const Quantization& job, int64_t row, const Values& values) {
  const float scale = job.scales[row] = row_scale(values, job.width, job.code_dtype);
  if (job.code_dtype == DType::i8) {
    encode_row(values, job.width, scale, static_cast<int8_t*>(job.codes) + row * job.width);
  } else {
    encode_row(values, job.width, scale, static_cast<e4m3*>(job.codes) + row * job.width);
  }
}

template <typename X, typename M>
PYACCEL_HD void difference_rows(const Quantization& job, const X* x, const M* minus, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r)
    quantize_row(job, r, Difference<X, M>{x + r * job.width, minus + r * job.width});
}

template <typename X>
PYACCEL_HD void alone_rows(const Quantization& job, const X* x, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) quantize_row(job, r, Alone<X>{x + r * job.width});
}

// Of any type but float64.
void quantize_rows(const Quantization& job, int64_t begin, int64_t end) {
  with_type(job.x_dtype, job.x, 0, [&](auto x) {
    if constexpr (sizeof(*x) != sizeof(double)) {
      if (job.minus == nullptr) return alone_rows(job, x, begin, end);
      with_type(job.minus_dtype, job.minus, 0, [&](auto minus) {
        if constexpr (sizeof(*minus) != sizeof(double)) difference_rows(job, x, minus, begin, end);
      });
    }
  });
}

}  // namespace
}  // namespace pyaccel
