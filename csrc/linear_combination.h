// linear_combination: out_i = sum_j c[i][j] * in_j, elementwise, several outputs in one pass over memory.
//
// Bytes: each of the k inputs is read once and each of the n outputs written once. Accumulation is in float32, or in
// float64 where any operand is float64; each operand has its own element type.
#pragma once

#include <cstdint>

#include "numeric.h"

namespace pyaccel {

struct Combination {
  int n, k;                    // outputs, inputs
  int64_t batch, inner;        // samples, elements of each; batch is 1 when all share their coefficients
  const double* coefficients;  // [batch, n, k]
  const void* const* in;       // k pointers
  const DType* in_dtype;
  void* const* out;  // n pointers; one may equal an input, none may overlap one in part
  const DType* out_dtype;
};

// One element in double precision: the arithmetic of the float64 path, and what every other path approximates.
template <typename Load>
PYACCEL_HD double combine(const double* c, int k, Load load) {
  double sum = 0;
  for (int j = 0; j < k; ++j) sum += c[j] * load(j);
  return sum;
}

}  // namespace pyaccel
