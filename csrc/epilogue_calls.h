// threshold and blend of dense CPU tensors, served without a detour through Python.
#pragma once

#include <pybind11/pybind11.h>

#include <cmath>
#include <stdexcept>
#include <string>

#include "cpu/epilogues_cpu.h"
#include "execution.h"
#include "python_arguments.h"
#include "tensor_calls.h"

namespace pyaccel {

// A Python number; NaN, and no Python error, for anything else.
inline double number_or_nan(PyObject* o) {
  if (!PyFloat_Check(o) && !PyLong_Check(o)) return std::nan("");
  const double x = PyFloat_AsDouble(o);
  if (x == -1.0 && PyErr_Occurred()) return PyErr_Clear(), std::nan("");
  return x;
}

// out, or a new tensor like x where it is None; as what the kernel writes, whose shape and type are those of x. A null
// object where out is anything else.
inline py::object writable(py::handle out, py::handle x, const DenseTensor& like, bool grad, py::handle empty_like,
                           DenseTensor* to) {
  const bool given = !out.is_none();
  auto result = given ? py::reinterpret_borrow<py::object>(out)
                      : py::reinterpret_steal<py::object>(PyObject_CallOneArg(empty_like.ptr(), x.ptr()));
  if (!result) throw py::error_already_set();
  if (!reader().read(result.ptr(), given && grad, to) || to->dtype != like.dtype || !to->same_shape(like)) return {};
  return result;
}

inline void refuse_partial_overlap(const char* operation, const char* name, const DenseTensor& out,
                                   const DenseTensor& in) {
  if (out.data == in.data && out.dtype == in.dtype && out.numel() == in.numel()) return;
  if (touch(out.data, out.numel() * size_of(out.dtype), in.data, in.numel() * size_of(in.dtype)))
    throw std::invalid_argument(std::string(operation) + ": out overlaps " + name +
                                " in part; it may be exactly that, or share no memory with it");
}

// The result, or None, and nothing done, where anything is not as the kernel wants it.
inline py::object threshold_tensor(py::handle x0, py::handle limit, py::handle ratio, py::handle out, bool grad,
                                   py::handle empty_like) {
  const double s = number_or_nan(limit.ptr()), q = number_or_nan(ratio.ptr());
  DenseTensor x, y;
  if (!(s > 0 && q >= 0 && q < 1) || !reader().read(x0.ptr(), grad, &x) || (q > 0 && x.ndim == 0)) return py::none();
  const py::object result = writable(out, x0, x, grad, empty_like, &y);
  if (!result) return py::none();
  const int64_t total = x.numel(), batch = x.ndim == 0 ? 1 : x.shape[0];
  if (total == 0) return result;
  refuse_partial_overlap("threshold", "x0", y, x);
  const Threshold job{x.data, y.data, x.dtype, batch, total / batch, s, q};
  run_native(2 * total * size_of(x.dtype), [&] { threshold_cpu(job, *chosen, max_threads()); });
  return result;
}

// Whether m, whose dimensions go with the last of x, is one run of inner elements for each of some entries, each run
// shared by so many repeats of it.
inline bool runs_of_mask(const DenseTensor& m, const DenseTensor& x, int64_t* inner, int64_t* repeats) {
  constexpr int64_t few = 16;  // shorter runs would not fill the registers
  int d = x.ndim - 1;
  const auto size = [&](int i) { return i < x.ndim - m.ndim ? 1 : m.shape[i - (x.ndim - m.ndim)]; };
  if (m.ndim > x.ndim) return false;
  for (int i = 0; i < x.ndim; ++i)
    if (size(i) != 1 && size(i) != x.shape[i]) return false;
  *inner = *repeats = 1;
  for (; d >= 0 && size(d) == x.shape[d]; --d) *inner *= x.shape[d];
  for (; d >= 0 && size(d) == 1; --d) *repeats *= x.shape[d];
  for (; d >= 0; --d)
    if (size(d) != x.shape[d]) return false;
  return *repeats == 1 || *inner >= few;
}

// The same for blend. The mask may have fewer or shorter dimensions than x.
inline py::object blend_tensors(py::handle x, py::handle mask, py::handle image, py::handle noise, py::handle alpha,
                                py::handle sigma, py::handle out, bool grad, py::handle empty_like) {
  static const char* const names[] = {"x", "image", "noise", "mask"};
  const py::handle given[] = {x, image, noise, mask};
  DenseTensor in[4], y;
  Blend job;
  job.alpha = number_or_nan(alpha.ptr());
  job.sigma = number_or_nan(sigma.ptr());
  if (!std::isfinite(job.alpha) || !std::isfinite(job.sigma)) return py::none();
  for (int j = 0; j < 4; ++j) {
    if (!reader().read(given[j].ptr(), grad, &in[j]) || (j < 3 && !in[j].same_shape(in[0]))) return py::none();
    job.in[j] = in[j].data;
    job.in_dtype[j] = in[j].dtype;
  }
  if (!runs_of_mask(in[Blend::kMask], in[0], &job.inner, &job.repeats)) return py::none();
  const py::object result = writable(out, x, in[0], grad, empty_like, &y);
  if (!result) return py::none();
  job.total = in[0].numel();
  if (job.total == 0) return result;
  for (int j = 0; j < 4; ++j) refuse_partial_overlap("blend", names[j], y, in[j]);
  job.out = y.data;
  job.out_dtype = y.dtype;
  run_native(5 * job.total * size_of(y.dtype), [&] { blend_cpu(job, *chosen, max_threads()); });
  return result;
}

}  // namespace pyaccel
