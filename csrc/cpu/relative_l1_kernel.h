// The loop of relative_l1 (../relative_l1.h), for whichever Vec was included before this file.
#pragma once

#include "../relative_l1.h"
#include "operands.h"

namespace pyaccel {
namespace {

PYACCEL_HD double total_of(const Vec* sums, int count) {
  double total = 0;
  for (int u = 0; u < count; ++u) {
    float lanes[Vec::width];
    sums[u].store(lanes, false);
    for (const float x : lanes) total += x;
  }
  return total;
}

// So many lanes are added up side by side that no sum waits for the one before it.
template <typename A, typename B>
PYACCEL_HD void l1_floats(const A* a, const B* b, int64_t count, bool stream, double* sums) {
  constexpr int U = Vec::registers >= 32 ? 4 : 2, step = U * Vec::width;
  constexpr int64_t block = 64 * step;  // 64 additions to each lane
  int64_t i = 0;
  while (i + step <= count) {
    const int64_t end = count - i < block ? count : i + block;
    Vec difference[U], size[U];
    for (int u = 0; u < U; ++u) difference[u] = size[u] = Vec::zero();
    for (; i + step <= end; i += step) {
      if (stream) {
        prefetch<step * sizeof(A)>(reinterpret_cast<const char*>(a + i) + kAhead);
        prefetch<step * sizeof(B)>(reinterpret_cast<const char*>(b + i) + kAhead);
      }
      for (int u = 0; u < U; ++u) {
        const Vec y = Vec::load(b + i + u * Vec::width);
        difference[u] = difference[u] + Vec::abs(Vec::load(a + i + u * Vec::width) - y);
        size[u] = size[u] + Vec::abs(y);
      }
    }
    sums[0] += total_of(difference, U);
    sums[1] += total_of(size, U);
  }
  for (; i < count; ++i) {
    const float y = to_float(b[i]), d = to_float(a[i]) - y;
    sums[0] += d < 0 ? -d : d;
    sums[1] += y < 0 ? -y : y;
  }
}

template <typename A, typename B>
PYACCEL_HD void l1_doubles(const A* a, const B* b, int64_t count, double* sums) {
  constexpr int lanes = 8;
  double difference[lanes] = {}, size[lanes] = {};
  const auto add = [&](int64_t i, int lane) {
    const double y = to_double(b[i]), d = to_double(a[i]) - y;
    difference[lane] += d < 0 ? -d : d;
    size[lane] += y < 0 ? -y : y;
  };
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes)
    for (int lane = 0; lane < lanes; ++lane) add(i + lane, lane);
  for (; i < count; ++i) add(i, 0);
  for (int lane = 0; lane < lanes; ++lane) sums[0] += difference[lane], sums[1] += size[lane];
}

void l1_sums(const RelativeL1& job, int64_t begin, int64_t end, bool stream, double* sums) {
  with_type(job.a_dtype, job.a, begin, [&](auto a) {
    with_type(job.b_dtype, job.b, begin, [&](auto b) {
      if constexpr (sizeof(*a) == sizeof(double) || sizeof(*b) == sizeof(double)) {
        l1_doubles(a, b, end - begin, sums);
      } else {
        l1_floats(a, b, end - begin, stream, sums);
      }
    });
  });
}

}  // namespace
}  // namespace pyaccel
