// Reading and writing operands of any element type, for whichever Vec was included before this file.
#pragma once

#include <type_traits>

#include "../numeric.h"

namespace pyaccel {
namespace {

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

// Beyond the cache, converting 16-bit numbers takes so many instructions that the machine does not look far enough
// ahead by itself: without this, bfloat16 runs at 60 % of the memory's speed, float32 at 90 %.
constexpr int kAhead = 2048;  // bytes

template <int Bytes>
PYACCEL_HD void prefetch(const char* p) {
  for (int line = 0; line < Bytes; line += 64) __builtin_prefetch(p + line, 0, 0);
}

// Writes U registers. Two of 16-bit numbers go out together: non-temporal stores want whole cache lines.
template <int U, typename T>
PYACCEL_HD void store_registers(const Vec* sums, T* out, bool stream) {
  if constexpr (sizeof(T) == 2 && U % 2 == 0) {
    for (int u = 0; u < U; u += 2) Vec::store_pair(out + u * Vec::width, sums[u], sums[u + 1], stream);
  } else {
    for (int u = 0; u < U; ++u) sums[u].store(out + u * Vec::width, stream);
  }
}

// The same for an output of any type but float64.
template <int U>
PYACCEL_HD void store_floats(const Vec* sums, DType dtype, void* out, int64_t i, bool stream) {
  with_type(dtype, out, i, [&](auto p) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(p)>>;
    if constexpr (sizeof(T) != sizeof(double)) store_registers<U>(sums, const_cast<T*>(p), stream);
  });
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
