// adaln and norm_rope of dense tensors on one device, served without a detour through Python.
#pragma once

#include <pybind11/pybind11.h>

#include "call_arguments.h"
#include "cpu/adaln_cpu.h"
#include "runs.h"

namespace pyaccel {

// One entry [D] for all rows of x [..., D] or, unless it has to be one, an entry for each sample [B, D] or a shape of
// as many dimensions that broadcasts to x and whose last is D; None for none. False where the rows do not share entries
// as the kernel wants it.
inline bool read_row_operand(py::handle o, const DenseTensor& x, bool grad, bool one, RowOperand* to) {
  if (o.is_none()) return true;
  DenseTensor t;
  if (!reader().read(o.ptr(), grad, &t) || t.device != x.device || t.ndim < 1 || (one && t.ndim > 1)) return false;
  const int64_t width = x.shape[x.ndim - 1];
  if (t.shape[t.ndim - 1] != width) return false;
  if (t.ndim == 2 && x.ndim > 2) {
    if (t.shape[0] != x.shape[0]) return false;
    t.ndim = x.ndim;
    for (int d = 1; d + 1 < x.ndim; ++d) t.shape[d] = 1;
    t.shape[x.ndim - 1] = width;
  } else if (t.ndim != 1 && t.ndim != x.ndim) {
    return false;
  }
  int64_t inner;
  if (!runs_of(t, x, &inner, &to->repeats) || inner % width != 0) return false;
  to->inner = inner / width;
  to->data = t.data;
  to->dtype = t.dtype;
  return true;
}

// y, or (residual + gate * branch, y) where there is a branch; None, and nothing done, where anything is not as the
// kernel wants it.
inline py::object adaln_tensors(py::handle x, py::handle gate, py::handle branch, py::handle scale, py::handle shift,
                                py::handle weight, py::handle bias, bool rms, py::handle eps, bool grad,
                                py::handle empty_like) {
  DenseTensor v, b, s, y;
  if (!reader().read(x.ptr(), grad, &v) || v.ndim < 1) return py::none();
  AdaLN job{};
  job.x = v.data;
  job.dtype = v.dtype;
  job.width = v.shape[v.ndim - 1];
  if (job.width == 0) return py::none();
  job.rows = v.numel() / job.width;
  job.rms = rms;
  job.eps = number_or_nan(eps.ptr());
  if (!(job.eps >= 0)) return py::none();
  if (!read_row_operand(gate, v, grad, false, &job.gate) || !read_row_operand(scale, v, grad, false, &job.scale) ||
      !read_row_operand(shift, v, grad, false, &job.shift) || !read_row_operand(weight, v, grad, true, &job.weight) ||
      !read_row_operand(bias, v, grad, true, &job.bias))
    return py::none();
  const auto made = [&](DenseTensor* to) {
    auto result = py::reinterpret_steal<py::object>(PyObject_CallOneArg(empty_like.ptr(), x.ptr()));
    if (!result) throw py::error_already_set();
    if (!reader().read(result.ptr(), false, to) || to->dtype != v.dtype || !to->matches(v)) return py::object();
    return result;
  };
  if (!branch.is_none()) {
    if (!reader().read(branch.ptr(), grad, &b) || !b.matches(v)) return py::none();
    job.branch = b.data;
    job.branch_dtype = b.dtype;
  }
  const py::object out = made(&y), sum = branch.is_none() ? py::object(py::none()) : made(&s);
  if (!out || !sum) return py::none();
  job.out = y.data;
  if (!branch.is_none()) job.sum = s.data;
  run_on(
      v.device, v.numel() * 8, [&] { adaln_cpu(job, *chosen, max_threads()); },
      [&](auto stream) { adaln_cuda(job, stream); });
  if (branch.is_none()) return out;
  return py::make_tuple(sum, out);
}

// An entry for each of the tokens [B, L] of x [B, L, H, D]: [L, D], [B or 1, L, D] or [B or 1, L, 1, D].
inline bool read_angles(py::handle o, const DenseTensor& x, bool grad, RowOperand* to) {
  DenseTensor t;
  if (!reader().read(o.ptr(), grad, &t) || t.device != x.device || t.ndim < 2 || t.ndim > 4) return false;
  const bool per_sample = t.ndim > 2 && t.shape[0] == x.shape[0];
  if (t.ndim > 2 && t.shape[0] != 1 && !per_sample) return false;
  if (t.ndim == 4 && t.shape[2] != 1) return false;
  if (t.shape[t.ndim == 2 ? 0 : 1] != x.shape[1] || t.shape[t.ndim - 1] != x.shape[3]) return false;
  *to = {t.data, t.dtype, per_sample ? x.shape[0] * x.shape[1] : x.shape[1], per_sample ? 1 : x.shape[0]};
  return true;
}

// The result, or None, and nothing done, where anything is not as the kernel wants it. weight, and cos and sin
// together, may be None.
inline py::object norm_rope_tensor(py::handle x, py::handle weight, py::handle cos, py::handle sin, py::handle eps,
                                   bool neighbours, bool grad, py::handle empty_like) {
  DenseTensor v, w, y;
  if (!reader().read(x.ptr(), grad, &v) || v.ndim != 4 || v.numel() == 0 || v.shape[3] % 2 != 0) return py::none();
  NormRope job{};
  job.x = v.data;
  job.dtype = v.dtype;
  job.tokens = v.shape[0] * v.shape[1];
  job.heads = v.shape[2];
  job.width = v.shape[3];
  job.neighbours = neighbours;
  job.eps = number_or_nan(eps.ptr());
  if (!(job.eps >= 0)) return py::none();
  if (!weight.is_none()) {
    if (!reader().read(weight.ptr(), grad, &w) || w.device != v.device || w.ndim != 1) return py::none();
    job.across = w.shape[0] != job.width;
    if (job.across && w.shape[0] != job.heads * job.width) return py::none();
    job.weight = {w.data, w.dtype, 1, job.tokens};
  }
  if (cos.is_none() != sin.is_none()) return py::none();
  if (!cos.is_none() && (!read_angles(cos, v, grad, &job.cos) || !read_angles(sin, v, grad, &job.sin)))
    return py::none();
  auto result = py::reinterpret_steal<py::object>(PyObject_CallOneArg(empty_like.ptr(), x.ptr()));
  if (!result) throw py::error_already_set();
  if (!reader().read(result.ptr(), false, &y) || y.dtype != v.dtype || !y.matches(v)) return py::none();
  job.out = y.data;
  run_on(
      v.device, v.numel() * 8, [&] { norm_rope_cpu(job, *chosen, max_threads()); },
      [&](auto stream) { norm_rope_cuda(job, stream); });
  return result;
}

}  // namespace pyaccel
