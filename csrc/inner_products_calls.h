// inner_products of dense tensors on the CPU, served without a detour through Python.
#pragma once

#include <pybind11/pybind11.h>

#include <vector>

#include "call_arguments.h"
#include "cpu/inner_products_cpu.h"
#include "scratch.h"

namespace pyaccel {

// Fills out, float64 [batch, n, k], with the sums over each of batch equal parts of the tensors; False, and nothing
// done, where anything is not as the kernel wants it.
inline bool inner_products_tensors(py::handle left, py::handle right, int64_t batch, py::handle out) {
  const Items ls(left.ptr()), rs(right.ptr());
  const size_t n = size_t(ls.size), k = size_t(rs.size);
  Scratch<const void*> pointers(n + k);
  Scratch<DType> dtypes(n + k);
  DenseTensor first, t, sums;
  for (size_t i = 0; i < n + k; ++i) {
    if (!reader().read(i < n ? ls.data[i] : rs.data[i - n], false, &t)) return false;
    if (i == 0) first = t;
    if (!t.matches(first)) return false;
    pointers[i] = t.data;
    dtypes[i] = t.dtype;
  }
  if (n == 0 || k == 0 || first.device != kCpu || batch < 1 || first.numel() % batch != 0) return false;
  if (!reader().read(out.ptr(), false, &sums) || sums.dtype != DType::f64 || sums.device != kCpu) return false;
  if (sums.numel() != batch * int64_t(n * k)) return false;
  const InnerProducts job{
      int(n),           int(k), batch, first.numel() / batch, pointers.data(), dtypes.data(), pointers.data() + n,
      dtypes.data() + n};
  run_native(first.numel() * int64_t(4 * (n + k)),
             [&] { inner_products_cpu(job, *chosen, max_threads(), static_cast<double*>(sums.data)); });
  return true;
}

}  // namespace pyaccel
