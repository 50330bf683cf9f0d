// The loop of inner_products (../inner_products.h), for whichever Vec was included before this file.
#pragma once

#include "../inner_products.h"
#include "relative_l1_kernel.h"  // total_of

namespace pyaccel {
namespace {

// The sum of g[i] * x[i], which are some thousands at the most.
template <typename G, typename X>
PYACCEL_HD double product_floats(const G* g, const X* x, int64_t count) {
  constexpr int U = 4, step = U * Vec::width;  // so many sums side by side: none waits for the one before it
  Vec total[U];
  for (int u = 0; u < U; ++u) total[u] = Vec::zero();
  double rest = 0;
  int64_t i = 0;
  for (; i + step <= count; i += step)
    for (int u = 0; u < U; ++u)
      total[u].add_product(Vec::load(g + i + u * Vec::width), Vec::load(x + i + u * Vec::width));
  for (; i < count; ++i) rest += double(to_float(g[i])) * double(to_float(x[i]));
  return total_of(total, U) + rest;
}

// The same in float64.
template <typename G, typename X>
PYACCEL_HD double product_doubles(const G* g, const X* x, int64_t count) {
  constexpr int lanes = 8;
  double total[lanes] = {}, sum = 0;
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes)
    for (int lane = 0; lane < lanes; ++lane) total[lane] += to_double(g[i + lane]) * to_double(x[i + lane]);
  for (; i < count; ++i) sum += to_double(g[i]) * to_double(x[i]);
  for (const double t : total) sum += t;
  return sum;
}

// Adds to sums [n, k] what elements [begin, end) contribute.
void inner_products(const InnerProducts& job, int64_t begin, int64_t end, bool f64, double* sums) {
  constexpr int64_t block = 2048;  // elements: two tensors' stay in the first cache, a dozen tensors' in the second
  for (int64_t at = begin; at < end; at += block) {
    const int64_t count = end - at < block ? end - at : block;
    for (int i = 0; i < job.n; ++i) {
      for (int j = 0; j < job.k; ++j) {
        double* sum = sums + i * job.k + j;
        with_type(job.left_dtype[i], job.left[i], at, [&](auto g) {
          with_type(job.right_dtype[j], job.right[j], at, [&](auto x) {
            if (f64) {
              *sum += product_doubles(g, x, count);
            } else if constexpr (sizeof(*g) != sizeof(double) && sizeof(*x) != sizeof(double)) {
              *sum += product_floats(g, x, count);
            }
          });
        });
      }
    }
  }
}

}  // namespace
}  // namespace pyaccel
