// gated_combination: out = residual + gate * sum_j w_j * in_j, elementwise; a cached branch of a block put in its
// place.
//
// Bytes: residual and every input are read once and out is written once; a gate that several tokens share is read for
// each of them, from the cache where it fits. An input may be 8-bit codes with a float32 scale for each row: then its
// value is scale * code, so a row's weight is w_j * scale. float32 arithmetic, float64 where any operand is float64.
#pragma once

#include <cstdint>

#include "numeric.h"

namespace pyaccel {

struct GatedCombination {
  int k;  // inputs
  const void* const* in;
  const DType* in_dtype;
  const float* const* scales;  // one for each row of an input that is codes; null for others
  const double* weights;
  const void* residual;  // null: 0
  DType residual_dtype;
  const void* gate;  // null: 1
  DType gate_dtype;
  void* out;  // may be one of residual, the inputs and the full gate; no other overlap
  DType out_dtype;
  int64_t total, row;
  // Element i goes with the gate's i / (inner repeats) * inner + i % inner.
  int64_t inner, repeats;
};

// Elements [begin, end), along which neither the gate jumps nor a scale changes.
struct GatedStretch {
  int64_t begin, end;
  const double* c;  // weights times scales, and times the gate where that is constant
  const float* c32;
  const void* gate;  // null: 1, or in the weights already
  int64_t shift;     // from an element's position to its gate's
  bool stream;
};

}  // namespace pyaccel
