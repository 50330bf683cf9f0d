// relative_l1: sum |a - b| and sum |b|, whose quotient says how much a tensor has changed.
//
// Bytes: each of the two is read once and nothing is written. A few thousand elements are added up in float32 lanes,
// these sums in float64: the error does not grow with the size. float64 throughout where an operand is float64.
#pragma once

#include <cstdint>

#include "numeric.h"

namespace pyaccel {

struct RelativeL1 {
  const void *a, *b;
  DType a_dtype, b_dtype;
  int64_t total;
};

}  // namespace pyaccel
