// inner_products: G[b][i][j] = sum over the elements of sample b of left_i * right_j: the gradient of
// linear_combination to its coefficients, all of them in one pass.
//
// Bytes: each of the n + k tensors is read once from memory (blocks of them are then read again from the cache), and
// n * k numbers are written for each sample. A few thousand products are added up in float32 lanes, these sums in
// float64: the error does not grow with the size. float64 throughout where an operand is float64.
#pragma once

#include <cstdint>

#include "numeric.h"

namespace pyaccel {

struct InnerProducts {
  int n, k;              // tensors on the left, on the right
  int64_t batch, inner;  // samples that are told apart, elements of each
  const void* const* left;
  const DType* left_dtype;
  const void* const* right;
  const DType* right_dtype;
};

}  // namespace pyaccel
