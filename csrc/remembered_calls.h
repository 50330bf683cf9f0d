// The operations of feature caches on dense CPU tensors, by their addresses; Python has checked shapes and layouts.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <vector>

#include "cpu/remembered_cpu.h"
#include "execution.h"

namespace pyaccel {

namespace py = pybind11;

inline DType narrow_dtype(int code) {
  if (code < 0 || code > int(DType::f16)) throw std::invalid_argument("expected float32, bfloat16 or float16");
  return DType(code);
}

inline void need_memory(uintptr_t p, int64_t count) {
  if (p == 0 && count != 0) throw std::invalid_argument("a tensor has no memory");
}

inline void need_size(int64_t rows, int64_t width) {
  if (rows < 0 || width < 0) throw std::invalid_argument("negative sizes");
}

inline void quantize_call(uintptr_t x, int x_dtype, uintptr_t minus, int minus_dtype, uintptr_t codes, uintptr_t scales,
                          int64_t rows, int64_t width) {
  need_size(rows, width);
  need_memory(x, rows * width), need_memory(codes, rows * width), need_memory(scales, rows);
  const QuantizeRows job{reinterpret_cast<const void*>(x),
                         reinterpret_cast<const void*>(minus),
                         narrow_dtype(x_dtype),
                         narrow_dtype(minus_dtype),
                         reinterpret_cast<int8_t*>(codes),
                         reinterpret_cast<float*>(scales),
                         rows,
                         width};
  run_native(4 * rows * width, [&] { quantize_rows_cpu(job, *chosen, max_threads()); });
}

inline void gated_rows_call(const std::vector<uintptr_t>& x, const std::vector<int>& x_dtypes,
                            const std::vector<float>& x_weights, const std::vector<uintptr_t>& codes,
                            const std::vector<uintptr_t>& scales, const std::vector<float>& codes_weights,
                            uintptr_t gate, int gate_dtype, int64_t rows_per_gate, uintptr_t residual,
                            int residual_dtype, uintptr_t out, int out_dtype, int64_t rows, int64_t width) {
  need_size(rows, width);
  if (x.size() != x_dtypes.size() || x.size() != x_weights.size() || codes.size() != scales.size() ||
      codes.size() != codes_weights.size() || rows_per_gate < 1)
    throw std::invalid_argument("lists of different lengths, or rows_per_gate < 1");
  for (const uintptr_t p : x) need_memory(p, rows * width);
  for (const uintptr_t p : codes) need_memory(p, rows * width);
  for (const uintptr_t p : scales) need_memory(p, rows);
  need_memory(out, rows * width);
  std::vector<DType> dtypes;
  for (const int code : x_dtypes) dtypes.push_back(narrow_dtype(code));
  static_assert(sizeof(uintptr_t) == sizeof(void*));
  const GatedRows job{int(x.size()),
                      int(codes.size()),
                      reinterpret_cast<const void* const*>(x.data()),
                      dtypes.data(),
                      x_weights.data(),
                      reinterpret_cast<const int8_t* const*>(codes.data()),
                      reinterpret_cast<const float* const*>(scales.data()),
                      codes_weights.data(),
                      reinterpret_cast<const void*>(gate),
                      narrow_dtype(gate_dtype),
                      rows_per_gate,
                      reinterpret_cast<const void*>(residual),
                      narrow_dtype(residual_dtype),
                      reinterpret_cast<void*>(out),
                      narrow_dtype(out_dtype),
                      rows,
                      width};
  run_native(int64_t(x.size() + codes.size() + 2) * rows * width, [&] { gated_rows_cpu(job, *chosen, max_threads()); });
}

inline std::pair<double, double> relative_l1_call(uintptr_t a, int a_dtype, uintptr_t b, int b_dtype, int64_t total) {
  need_size(total, 1);
  need_memory(a, total), need_memory(b, total);
  const RelativeL1 job{reinterpret_cast<const void*>(a), reinterpret_cast<const void*>(b), narrow_dtype(a_dtype),
                       narrow_dtype(b_dtype), total};
  std::pair<double, double> sums;
  run_native(4 * total, [&] { sums = relative_l1_cpu(job, *chosen, max_threads()); });
  return sums;
}

}  // namespace pyaccel
