// norm_rope: RMSNorm of the queries or keys of each token, over each head or over all heads, and then the rotary
// embedding, which turns pairs (a, b) of a head's elements: (a cos_a - b sin_a, b cos_b + a sin_b). A pair is two
// neighbours, or one element of each half of the head.
//
// Bytes: each element is read once and written once; the cosines and sines of a token are read once for all of its
// heads. float32 arithmetic, float64 where any operand is float64; rounded once. What attention reads next stays in
// the cache: stores do not pass it.
#pragma once

#include <cstdint>

#include "adaln.h"

namespace pyaccel {

struct NormRope {
  const void* x;  // [tokens, heads, width]
  DType dtype;    // of the result too
  void* out;
  RowOperand weight;    // one entry: of a head's width, or of all heads'; may be absent
  RowOperand cos, sin;  // an entry of a head's width for each token; both may be absent
  int64_t tokens, heads, width;
  bool across;  // the norm goes over all heads
  bool neighbours;
  double eps;
};

template <typename Real>
PYACCEL_HD void turn(Real a, Real b, Real cos_a, Real sin_a, Real cos_b, Real sin_b, Real* to_a, Real* to_b) {
  *to_a = a * cos_a - b * sin_a;
  *to_b = b * cos_b + a * sin_b;
}

}  // namespace pyaccel
