// blend: out = m x + (1 - m) (alpha image + sigma noise), elementwise: what a mask keeps of an image, put into a
// sample.
//
// Bytes: x, image and noise are read once and out is written once; a mask that several channels or samples share is
// read for each of them, from the cache where it fits. float32 arithmetic, float64 where any operand is float64. Where
// m is exactly 1 or 0, the result is exactly x or exactly alpha image + sigma noise, as far as these are finite.
#pragma once

#include <cstdint>

#include "typed.h"

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

namespace {  // each instruction set compiles this for itself

// Element i, which goes with the mask's element m.
template <typename Real>
PYACCEL_HD Real blended_element(const Blend& job, int64_t i, int64_t m) {
  const auto read = [&](Blend::Operand which, int64_t at) {
    return read_number<Real>(job.in_dtype[which], job.in[which], at);
  };
  return blended<Real>(read(Blend::kX, i), read(Blend::kImage, i), read(Blend::kNoise, i), read(Blend::kMask, m),
                       Real(job.alpha), Real(job.sigma));
}

}  // namespace

}  // namespace pyaccel
