// Loops over a row that are written once, for registers and for the numbers that are left over; for whichever Vec was
// included before this file.
#pragma once

#include <type_traits>

#include "operands.h"

#define PYACCEL_INLINED __attribute__((always_inline))

namespace pyaccel {
namespace {

// One number with the interface of Vec.
template <typename Real>
struct Number {
  static constexpr int width = 1;
  Real v;

  template <typename T>
  static Number load(const T* p) {
    if constexpr (sizeof(Real) == sizeof(double)) {
      return {to_double(*p)};
    } else {
      return {to_float(*p)};
    }
  }
  template <typename T>
  void store(T* p, bool = false) const {
    if constexpr (sizeof(T) == sizeof(double)) {
      *p = v;
    } else {
      from_float(float(v), p);
    }
  }
  static Number all(double c) { return {Real(c)}; }
  friend Number operator+(Number a, Number b) { return {a.v + b.v}; }
  friend Number operator-(Number a, Number b) { return {a.v - b.v}; }
  friend Number operator*(Number a, Number b) { return {a.v * b.v}; }
};

constexpr int kUnits = 4;  // so many sums side by side: none waits for the one before it

// f(lanes, units, i) from element i on, for units * lanes.width elements at once; lanes says the type: Vec or Number.
// As the last, fewer at once.
template <typename Real, typename F>
PYACCEL_HD void sweep(int64_t count, F f) {
  using One = Number<Real>;
  using Many = std::conditional_t<sizeof(Real) == sizeof(float), Vec, One>;
  constexpr int step = kUnits * Many::width;
  int64_t i = 0;
  for (; i + step <= count; i += step) f(Many{}, std::integral_constant<int, kUnits>{}, i);
  for (; i + Many::width <= count; i += Many::width) f(Many{}, std::integral_constant<int, 1>{}, i);
  if constexpr (Many::width > 1)
    for (; i < count; ++i) f(One{}, std::integral_constant<int, 1>{}, i);
}

// Sums of what sweep goes over.
template <typename Real>
struct Sums {
  Vec lanes[kUnits];
  Number<Real> ones[kUnits];

  PYACCEL_HD Sums() {
    for (int u = 0; u < kUnits; ++u) lanes[u] = Vec::zero(), ones[u] = {0};
  }
  PYACCEL_HD void add(int u, Vec x) { lanes[u] = lanes[u] + x; }
  PYACCEL_HD void add(int u, Number<Real> x) { ones[u] = ones[u] + x; }
  PYACCEL_HD double total() const {
    double sum = 0;
    for (int u = 0; u < kUnits; ++u) sum += double(ones[u].v);
    if constexpr (sizeof(Real) == sizeof(float)) {
      const Vec all = (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);  // heads are short: few numbers are left to add up
      float each[Vec::width];
      all.store(each, false);
      for (const float x : each) sum += double(x);
    }
    return sum;
  }
};

// Writes units of lanes; past the cache if so asked and if they are whole lines.
template <typename V, int Units, typename T>
PYACCEL_HD void store_lanes(const V* values, T* out, bool stream) {
  if constexpr (std::is_same_v<V, Vec>) {
    store_registers<Units>(values, out, stream && Units == kUnits);
  } else {
    for (int u = 0; u < Units; ++u) values[u].store(out + u);
  }
}

// Calls f with a typed pointer to element i of p, of any type that goes with Real; not for codes.
template <typename Real, typename F>
PYACCEL_HD void with_real_type(DType dtype, const void* p, int64_t i, F f) {
  with_type(dtype, p, i, [&](auto typed) {
    if constexpr (sizeof(*typed) <= sizeof(Real)) f(typed);
  });
}

}  // namespace
}  // namespace pyaccel
