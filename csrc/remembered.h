// What feature caches remember: rows in 8 bits with a scale for each, combinations over them, and how much they change.
//
//   quantize      codes = round((x - minus) / scale), scale = max|x - minus| / 127 of the row: x and minus are read
//   once
//                 from memory (and once more from the cache), one byte and a scale are written.
//   gated rows    out = residual + gate (sum_j w_j x_j + sum_j w_j scale_j codes_j): each operand is read once.
//   relative L1   sum |a - b| and sum |b|: each operand is read once and nothing is written.
//
// float32 arithmetic; sums over many elements in float64.
#pragma once

#include <cstdint>

#include "numeric.h"

namespace pyaccel {

struct QuantizeRows {
  const void* x;
  const void* minus;  // null for none
  DType x_dtype, minus_dtype;
  int8_t* codes;
  float* scales;
  int64_t rows, width;
};

struct GatedRows {
  int plain, quantized;
  const void* const* x;
  const DType* x_dtype;
  const float* x_weight;
  const int8_t* const* codes;
  const float* const* scales;
  const float* codes_weight;
  const void* gate;  // null for none; row r goes with row r / rows_per_gate of it
  DType gate_dtype;
  int64_t rows_per_gate;
  const void* residual;  // null for none
  DType residual_dtype;
  void* out;
  DType out_dtype;
  int64_t rows, width;
};

struct RelativeL1 {
  const void* a;
  const void* b;
  DType a_dtype, b_dtype;
  int64_t total;
};

}  // namespace pyaccel
