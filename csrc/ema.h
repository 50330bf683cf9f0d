// ema_update: e = beta e + (1 - beta) theta for every parameter theta of a model and each of its averages e.
//
// Bytes: each parameter is read once for all rates, each average is read and written once. float32 arithmetic, float64
// where either of the two is float64. It goes over the difference, e + (1 - beta) (theta - e): in the plain form the
// rounded beta and 1 - beta do not add up to 1, and what that misses in a step adds up over the 1 / (1 - beta) steps
// that an average reaches back: with beta = 0.9999 and float32 to 3e-4 of it.
#pragma once

#include <cstdint>

#include "typed.h"

namespace pyaccel {

struct EmaUpdate {
  int64_t count;  // of parameters
  int rates;
  const void* const* params;   // [count], of any size, 0 too
  const DType* param_dtype;    // [count]
  const int64_t* sizes;        // [count], elements
  void* const* averages;       // [rates][count]; no memory of theirs is anybody else's
  const DType* average_dtype;  // [rates][count]
  const double* betas;         // [rates], in [0, 1]

  int64_t bytes() const {
    int64_t sum = 0;
    for (int64_t t = 0; t < count; ++t) {
      sum += sizes[t] * size_of(param_dtype[t]);
      for (int r = 0; r < rates; ++r) sum += 2 * sizes[t] * size_of(average_dtype[r * count + t]);
    }
    return sum;
  }
  bool wide(int64_t t) const {  // whether parameter t goes in float64
    bool any = param_dtype[t] == DType::f64;
    for (int r = 0; r < rates; ++r) any |= average_dtype[r * count + t] == DType::f64;
    return any;
  }
};

namespace {  // each instruction set compiles this for itself

// From where the distance to go is the shorter one: so beta = 1 leaves e and beta = 0 gives theta, to the bit.
template <typename Real>
struct Approach {
  bool from_theta;
  Real weight;

  PYACCEL_HD static Approach with(double beta) { return {beta <= 0.5, Real(beta <= 0.5 ? -beta : 1 - beta)}; }
  PYACCEL_HD Real operator()(Real e, Real theta) const { return (from_theta ? theta : e) + weight * (theta - e); }
};

}  // namespace

}  // namespace pyaccel
