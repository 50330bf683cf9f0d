// The loops of threshold (../threshold.h), for whichever Vec was included before this file.
#pragma once

#include <type_traits>

#include "../threshold.h"
#include "operands.h"

namespace pyaccel {
namespace {

// U registers at a time from element i on; returns where it stopped, less than U registers before the end.
template <bool Divide, int U, typename T>
PYACCEL_HD int64_t sweep_clamp(const T* x, T* out, int64_t i, int64_t count, float s, bool stream) {
  constexpr int step = U * Vec::width;
  const Vec high = Vec::all(s), low = Vec::all(-s);
  for (; i + step <= count; i += step) {
    if (stream) prefetch<step * sizeof(T)>(reinterpret_cast<const char*>(x + i) + kAhead);
    Vec v[U];
    for (int u = 0; u < U; ++u) {
      v[u] = Vec::max(low, Vec::min(high, Vec::load(x + i + u * Vec::width)));
      if constexpr (Divide) v[u] = v[u] / high;
    }
    store_registers<U>(v, out + i, stream);
  }
  return i;
}

template <bool Divide, typename T>
void clamp_floats(const T* x, T* out, int64_t count, float s, bool stream) {
  int64_t i = sweep_clamp<Divide, 8>(x, out, 0, count, s, stream);
  i = sweep_clamp<Divide, 1>(x, out, i, count, s, false);
  for (; i < count; ++i) from_float(clamped(to_float(x[i]), s, Divide), out + i);
}

void clamp_elements(const Threshold& job, double s, bool divide, int64_t i, int64_t count, bool stream) {
  with_type(job.dtype, job.x, i, [&](auto x) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(x)>>;
    T* out = static_cast<T*>(job.out) + i;
    if constexpr (sizeof(T) == sizeof(double)) {
      for (int64_t e = 0; e < count; ++e) out[e] = clamped(x[e], s, divide);
    } else if (divide) {
      clamp_floats<true>(x, out, count, float(s), stream);
    } else {
      clamp_floats<false>(x, out, count, float(s), stream);
    }
  });
}

// Counts in blocks, in lanes as wide as the keys; only blocks with keys inside of the bracket are looked at again.
template <typename T>
PYACCEL_HD int64_t sift(const T* x, int64_t count, Bracket* bracket, Key* inside) {
  using Lane = decltype(key_of(*x));
  constexpr int block = 64;
  const Lane low = Lane(bracket->low), high = Lane(bracket->high);
  Lane greatest = 0;
  int64_t below = 0, at_low = 0, at_high = 0, found = 0;
  for (int64_t i = 0; i < count; i += block) {
    const int size = count - i < block ? int(count - i) : block;
    Lane keys[block];
    for (int e = 0; e < size; ++e) keys[e] = key_of(x[i + e]);
    for (int e = size; e < block; ++e) keys[e] = keys[0];  // so that the loops have a fixed length
    Lane less = 0, equal_low = 0, equal_high = 0, more = 0;
    for (int e = 0; e < block; ++e) {
      less += keys[e] < low;
      equal_low += keys[e] == low;
      equal_high += keys[e] == high;
      more += keys[e] > high;
      greatest = keys[e] > greatest ? keys[e] : greatest;
    }
    const int extra = block - size;
    below += less - (keys[0] < low ? extra : 0);
    at_low += equal_low - (keys[0] == low ? extra : 0);
    at_high += equal_high - (keys[0] == high ? extra : 0);
    if (less + equal_low + equal_high + more == block) continue;
    for (int e = 0; e < size; ++e) {
      inside[found] = keys[e];
      found += (keys[e] > low) & (keys[e] < high);
    }
  }
  bracket->below += below;
  bracket->at_low += at_low;
  bracket->inside += found;
  bracket->at_high += at_high;
  bracket->greatest = greatest > bracket->greatest ? greatest : bracket->greatest;
  return found;
}

int64_t sift_keys(const Threshold& job, int64_t i, int64_t count, Bracket* bracket, Key* inside) {
  int64_t found = 0;
  with_type(job.dtype, job.x, i, [&](auto x) { found = sift(x, count, bracket, inside); });
  return found;
}

}  // namespace
}  // namespace pyaccel
