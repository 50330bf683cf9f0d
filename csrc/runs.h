// How a tensor that broadcasts to another one repeats itself in it.
#pragma once

#include "tensors.h"

namespace pyaccel {

constexpr int64_t kShortestRun = 16;  // shorter runs would not fill the registers of a CPU

// Whether m, on the device of x and with dimensions that go with the last of x, is one run of inner elements for each
// of some entries, each run shared by so many repeats of it.
inline bool runs_of(const DenseTensor& m, const DenseTensor& x, int64_t* inner, int64_t* repeats) {
  int d = x.ndim - 1;
  const auto size = [&](int i) { return i < x.ndim - m.ndim ? 1 : m.shape[i - (x.ndim - m.ndim)]; };
  if (m.ndim > x.ndim || m.device != x.device) return false;
  for (int i = 0; i < x.ndim; ++i)
    if (size(i) != 1 && size(i) != x.shape[i]) return false;
  *inner = *repeats = 1;
  for (; d >= 0 && size(d) == x.shape[d]; --d) *inner *= x.shape[d];
  for (; d >= 0 && size(d) == 1; --d) *repeats *= x.shape[d];
  for (; d >= 0; --d)
    if (size(d) != x.shape[d]) return false;
  return true;
}

}  // namespace pyaccel
