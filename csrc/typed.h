// Operands whose element type is known when the program runs.
#pragma once

#include <type_traits>

#include "numeric.h"

namespace pyaccel {
namespace {  // each instruction set compiles these for itself

// Calls f with a typed pointer to element i of p; not for codes.
template <typename F>
PYACCEL_HD void with_type(DType dtype, const void* p, int64_t i, F f) {
  switch (dtype) {
    case DType::f32:
      f(static_cast<const float*>(p) + i);
      break;
    case DType::bf16:
      f(static_cast<const bf16*>(p) + i);
      break;
    case DType::f16:
      f(static_cast<const f16*>(p) + i);
      break;
    case DType::f64:
      f(static_cast<const double*>(p) + i);
      break;
    default:
      break;
  }
}

// The same for codes too.
template <typename F>
PYACCEL_HD void with_any_type(DType dtype, const void* p, int64_t i, F f) {
  if (dtype == DType::i8) {
    f(static_cast<const int8_t*>(p) + i);
  } else if (dtype == DType::e4m3) {
    f(static_cast<const e4m3*>(p) + i);
  } else {
    with_type(dtype, p, i, f);
  }
}

// Element i of p.
template <typename Real>
PYACCEL_HD Real read_number(DType dtype, const void* p, int64_t i) {
  Real x = 0;
  with_any_type(dtype, p, i, [&](auto typed) { x = Real(to_double(*typed)); });
  return x;
}

// One number, rounded to the type of element i of out.
template <typename Real>
PYACCEL_HD void store_number(Real value, DType dtype, void* out, int64_t i) {
  with_type(dtype, out, i, [&](auto p) {
    auto* to = const_cast<std::remove_const_t<std::remove_pointer_t<decltype(p)>>*>(p);
    if constexpr (sizeof(*p) == sizeof(double)) {
      *to = value;
    } else {
      from_float(float(value), to);
    }
  });
}

}  // namespace
}  // namespace pyaccel
