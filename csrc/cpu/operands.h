// Reading and writing operands of any element type, for whichever Vec was included before this file.
#pragma once

#include <type_traits>

#include "../typed.h"

namespace pyaccel {
namespace {

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

}  // namespace
}  // namespace pyaccel
