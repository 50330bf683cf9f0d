// The loops of ema_update (../ema.h), for whichever Vec was included before this file.
#pragma once

#include "../ema.h"
#include "operands.h"

namespace pyaccel {
namespace {

template <int U, typename P, typename E>
PYACCEL_HD int64_t approach_vectors(Approach<float> approach, const P* theta, E* e, int64_t i, int64_t count,
                                    bool ahead) {
  constexpr int step = U * Vec::width;
  for (; i + step <= count; i += step) {
    if (ahead && sizeof(P) + sizeof(E) < 8) {  // float32 alone is as fast without
      prefetch<step * sizeof(P)>(reinterpret_cast<const char*>(theta + i) + kAhead);
      prefetch<step * sizeof(E)>(reinterpret_cast<const char*>(e + i) + kAhead);
    }
    Vec sums[U];
    for (int u = 0; u < U; ++u) {
      const Vec to = Vec::load(theta + i + u * Vec::width), from = Vec::load(e + i + u * Vec::width);
      sums[u] = approach.from_theta ? to : from;
      sums[u].add_scaled(approach.weight, to - from);
    }
    store_registers<U>(sums, e + i, false);  // what was just read is in the cache: no store passes it
  }
  return i;
}

template <typename P, typename E>
PYACCEL_HD void approach_elements(double beta, const P* theta, E* e, int64_t count, bool ahead) {
  if constexpr (sizeof(P) == sizeof(double) || sizeof(E) == sizeof(double)) {
    const auto approach = Approach<double>::with(beta);
    for (int64_t i = 0; i < count; ++i) {
      const double value = approach(to_double(e[i]), to_double(theta[i]));
      if constexpr (sizeof(E) == sizeof(double)) {
        e[i] = value;
      } else {
        from_float(float(value), e + i);
      }
    }
  } else {
    const auto approach = Approach<float>::with(beta);
    int64_t i = approach_vectors<4>(approach, theta, e, 0, count, ahead);
    i = approach_vectors<1>(approach, theta, e, i, count, false);
    for (; i < count; ++i) from_float(approach(to_float(e[i]), to_float(theta[i])), e + i);
  }
}

// Elements [begin, end) of parameter t, so few at once that the parameter is read from memory for the first rate only.
void ema_elements(const EmaUpdate& job, int64_t t, int64_t begin, int64_t end, bool stream) {
  constexpr int64_t block = 1024;
  const int64_t turn = job.rates > 1 ? block : end - begin;
  for (int64_t i = begin; i < end; i += turn) {
    const int64_t count = end - i < turn ? end - i : turn;
    for (int r = 0; r < job.rates; ++r) {
      const int64_t which = r * job.count + t;
      with_type(job.param_dtype[t], job.params[t], i, [&](auto theta) {
        with_type(job.average_dtype[which], job.averages[which], i, [&](auto typed) {
          using E = std::remove_const_t<std::remove_pointer_t<decltype(typed)>>;
          approach_elements(job.betas[r], theta, const_cast<E*>(typed), count, stream);
        });
      });
    }
  }
}

}  // namespace
}  // namespace pyaccel
