// adaln: y = norm(x) * (1 + scale) + shift over rows of x, and before it, where there is a branch, x = residual + gate
// * branch, which is written as well. norm(x) = (x - mean) / sqrt(var + eps) * weight + bias (LayerNorm), or the same
// without the mean (RMSNorm).
//
// Bytes: x, or residual and branch, are read once and each output is written once; a row stays in the first cache while
// it is gone over. Modulations that rows share are read once for each run of those rows: they become factor = weight *
// (1 + scale) and offset = bias * (1 + scale) + shift, so that y = (x - mean) * r * factor + offset. float32
// arithmetic, float64 where any operand is float64. The sum with the branch is rounded to its type before it is normed:
// so y is what the two operations give one after the other.
#pragma once

#include <cmath>
#include <cstdint>

#include "numeric.h"

namespace pyaccel {

// Entries of one row's width, which rows share.
struct RowOperand {
  const void* data;  // null: absent
  DType dtype;
  int64_t inner, repeats;

  // Runs of inner rows, each shared by so many repeats of it.
  PYACCEL_HD int64_t entry(int64_t row) const { return row / (inner * repeats) * inner + row % inner; }
};

struct AdaLN {
  const void* x;  // the residual where there is a branch
  DType dtype;    // of x and of both outputs
  const void* branch;
  DType branch_dtype;
  RowOperand gate, scale, shift, weight, bias;
  void* sum;  // residual + gate * branch; null without a branch
  void* out;
  int64_t rows, width;
  bool rms;
  double eps;
  bool stream;  // stores pass the cache; every row begins a cache line
};

// squares: the sum over a row of (x - mean)^2.
template <typename Real>
PYACCEL_HD Real inverse_deviation(Real squares, int64_t width, double eps) {
  const Real variance = squares / Real(width) + Real(eps);
  if constexpr (sizeof(Real) == sizeof(float)) {
    return 1 / sqrtf(variance);
  } else {
    return 1 / sqrt(variance);
  }
}

// Of one number, or of registers of them.
template <typename V>
PYACCEL_HD V modulated(V x, V mean, V inverse, V factor, V offset) {
  return (x - mean) * inverse * factor + offset;
}

}  // namespace pyaccel
