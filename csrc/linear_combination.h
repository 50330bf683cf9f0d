// linear_combination: out_i = sum_j c[i][j] * in_j + sum_s c[i][k + s] * xi_s, elementwise, several outputs in one
// pass.
//
// Bytes: each of the k inputs is read once and each of the n outputs written once; the noise xi_s (philox.h) is drawn
// on the way and never in memory. Accumulation is in float32, or in float64 where any operand is float64; each operand
// has its own element type.
#pragma once

#include <cstdint>

#include "numeric.h"

namespace pyaccel {

struct Combination {
  int n, k;                    // outputs, inputs
  int64_t batch, inner;        // samples, elements of each; batch is 1 when nothing tells samples apart
  const double* coefficients;  // [n, k + streams] for each sample
  int64_t coefficient_stride;  // from one sample's to the next one's; 0 when all share them
  const void* const* in;       // k pointers
  const DType* in_dtype;
  void* const* out;  // n pointers; one may equal an input, none may overlap one in part
  const DType* out_dtype;
  int streams;              // of noise
  const uint64_t* seeds;    // one for each sample
  const uint64_t* numbers;  // of the streams
};

// One element in double precision: the arithmetic of the float64 path, and what every other path approximates.
template <typename Load>
PYACCEL_HD double combine(const double* c, int k, Load load) {
  double sum = 0;
  for (int j = 0; j < k; ++j) sum += c[j] * load(j);
  return sum;
}

}  // namespace pyaccel
