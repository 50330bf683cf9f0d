// threshold: out = clamp(x, -s, s), and for dynamic thresholding (Saharia et al. 2022, section 2.3) divided by s.
//
// The plain clamp has s = limit. Dynamic thresholding has an s for each sample: the ratio-quantile of |x|, which lies
// between the order statistics of rank floor(r) and floor(r) + 1, r = ratio (inner - 1), clamped to [1, max(limit, 1)].
//
// Bytes: the clamp reads and writes each element once. The quantile reads each once more, to count and to pick out the
// few elements in a bracket that a random sample has shown to hold both order statistics: then the exact ones are
// selected among those few. Where the bracket has missed, which is rare and not wrong, all are copied and selected
// from.
//
// A NaN stays one; as a quantile of numbers with a NaN is NaN, it makes a NaN of its whole sample.
#pragma once

#include <cstdint>

#include "numeric.h"

namespace pyaccel {

struct Threshold {
  const void* x;
  void* out;  // may be x; no other overlap
  DType dtype;
  int64_t batch, inner;  // samples, elements of each
  double limit;
  double ratio;  // 0: the plain clamp
};

// Magnitudes as integers in the same order: the bits without the sign. A NaN's are above infinity's.
using Key = int64_t;

PYACCEL_HD int32_t key_of(float x) { return int32_t(bits_of(x) & 0x7fffffffu); }
PYACCEL_HD int32_t key_of(bf16 x) { return x.bits & 0x7fff; }
PYACCEL_HD int32_t key_of(f16 x) { return x.bits & 0x7fff; }
PYACCEL_HD int64_t key_of(double x) {
  int64_t u;
  memcpy(&u, &x, sizeof u);
  return u & INT64_MAX;
}

PYACCEL_HD Key infinity_key(DType d) {
  return d == DType::f32 ? 0x7f800000 : d == DType::bf16 ? 0x7f80 : d == DType::f16 ? 0x7c00 : Key(0x7ff) << 52;
}

// The magnitude of a key.
PYACCEL_HD double value_of(DType dtype, Key key) {
  switch (dtype) {
    case DType::f32:
      return float_from_bits(uint32_t(key));
    case DType::bf16:
      return to_float(bf16{uint16_t(key)});
    case DType::f16:
      return to_float(f16{uint16_t(key)});
    default:
      double x;
      memcpy(&x, &key, sizeof x);
      return x;
  }
}

// The quantile between two neighbouring order statistics. Equal ones may both be infinite, and a weight of 0 must not
// meet an infinity.
PYACCEL_HD double quantile_between(double first, double second, double weight) {
  return first == second || weight == 0 ? first : first + weight * (second - first);
}

// s of dynamic thresholding. Comparisons that a NaN fails, so that it stays one.
PYACCEL_HD double limit_of(double quantile, double limit) {
  const double most = limit > 1 ? limit : 1, s = quantile < 1 ? 1 : quantile;
  return s > most ? most : s;
}

// How many keys are below low, equal to it, inside (low, high) and equal to high; and the greatest of all.
struct Bracket {
  Key low, high;
  int64_t below = 0, at_low = 0, inside = 0, at_high = 0;
  Key greatest = 0;
};

// One element, in float or in double. Comparisons that are false for a NaN let it pass.
template <typename Real>
PYACCEL_HD Real clamped(Real x, Real s, bool divide) {
  x = s < x ? s : x;
  x = x < -s ? -s : x;
  return divide ? x / s : x;
}

}  // namespace pyaccel
