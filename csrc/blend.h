// blend: out = m x + (1 - m) (alpha image + sigma noise), elementwise: what a mask keeps of an image, put into a
// sample.
//
// Bytes: x, image and noise are read once and out is written once; a mask that several channels or samples share is
// read for each of them, from the cache where it fits. float32 arithmetic, float64 where any operand is float64. Where
// m is exactly 1 or 0, the result is exactly x or exactly alpha image + sigma noise, as far as these are finite.
#pragma once

#include <cstdint>

#include "numeric.h"

namespace pyaccel {

struct Blend {
  enum Operand { kX, kImage, kNoise, kMask };
  const void* in[4];  // by Operand
  DType in_dtype[4];
  void* out;  // may be one of x, image, noise and the full mask; no other overlap
  DType out_dtype;
  int64_t total;
  // Element i goes with the mask's i / (inner repeats) * inner + i % inner.
  int64_t inner, repeats;
  double alpha, sigma;
};

template <typename Real>
PYACCEL_HD Real blended(Real x, Real image, Real noise, Real m, Real alpha, Real sigma) {
  return m * x + (1 - m) * (alpha * image + sigma * noise);
}

}  // namespace pyaccel
