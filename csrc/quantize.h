// quantize: v = x - minus in 8-bit codes, with a float32 scale for each row: scale = max|v| / L, code = v / scale
// rounded to nearest even; L is 127 for int8 and 448 for float8 e4m3fn.
//
// Bytes: x and minus are read once from memory and once more from the cache, in which a row stays; the codes are
// written once. A scale is never below the smallest normal float32: a smaller one would lose bits that its codes rely
// on. A row of zeros has the scale 0; one with NaN or infinity has the scale NaN and the codes 0.
#pragma once

#include <cstdint>

#include "numeric.h"

namespace pyaccel {

struct Quantization {
  const void* x;
  const void* minus;  // null: 0
  DType x_dtype, minus_dtype;
  void* codes;
  DType code_dtype;
  float* scales;
  int64_t rows, width;
};

// biggest: of the |v| of a row. finite: whether all of them are.
PYACCEL_HD float scale_of(float biggest, bool finite, DType code_dtype) {
  if (!finite) return float_from_bits(0x7fc00000u);
  const float scale = biggest / (code_dtype == DType::i8 ? 127.0f : 448.0f);
  const float smallest = float_from_bits(0x00800000u);
  return biggest == 0 ? 0 : scale < smallest ? smallest : scale;
}

}  // namespace pyaccel
