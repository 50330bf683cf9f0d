// gated_combination, relative_l1 and quantize of dense tensors on one device, served without a detour through Python.
#pragma once

#include <pybind11/pybind11.h>

#include <cmath>
#include <string>
#include <vector>

#include "call_arguments.h"
#include "cpu/caching_cpu.h"
#include "runs.h"

namespace pyaccel {

// A tensor, or a pair of codes and scales of the type quantized.
struct GatedInput {
  DenseTensor values;
  const float* scales = nullptr;

  bool read(PyObject* o, PyObject* quantized, bool grad) {
    if (reinterpret_cast<PyObject*>(Py_TYPE(o)) != quantized) return reader().read(o, grad, &values);
    DenseTensor s;
    if (!PyTuple_Check(o) || PyTuple_GET_SIZE(o) != 2) return false;
    if (!reader().read_codes(PyTuple_GET_ITEM(o, 0), &values) || !reader().read(PyTuple_GET_ITEM(o, 1), grad, &s))
      return false;
    if (s.dtype != DType::f32 || s.device != values.device || values.ndim < 1 || s.ndim != values.ndim - 1)
      return false;
    for (int d = 0; d < s.ndim; ++d)
      if (s.shape[d] != values.shape[d]) return false;
    scales = static_cast<const float*>(s.data);
    return true;
  }
};

// The result, or None, and nothing done, where anything is not as the kernel wants it. residual and gate may be None;
// so may out, if there is a residual or the tensors have one type.
inline py::object gated_combination_tensors(py::handle residual, py::handle gate, py::handle tensors,
                                            py::handle weights, py::handle out, bool grad, py::handle empty_like,
                                            py::handle quantized) {
  const auto is_sequence = [](py::handle o) { return PyList_Check(o.ptr()) || PyTuple_Check(o.ptr()); };
  if (!is_sequence(tensors) || !is_sequence(weights)) return py::none();
  if (reinterpret_cast<PyObject*>(Py_TYPE(tensors.ptr())) == quantized.ptr()) return py::none();
  const Items ins(tensors.ptr()), ws(weights.ptr());
  const size_t k = size_t(ins.size);
  if (k == 0 || ins.size != ws.size) return py::none();
  std::vector<GatedInput> in(k);
  Scratch<const void*> pointers(k);
  Scratch<DType> dtypes(k);
  Scratch<const float*> scales(k);
  Scratch<double> w(k);
  bool one_type = true;
  for (size_t j = 0; j < k; ++j) {
    w[j] = number_or_nan(ws.data[j]);
    if (!std::isfinite(w[j]) || !in[j].read(ins.data[j], quantized.ptr(), grad)) return py::none();
    if (!in[j].values.matches(in[0].values)) return py::none();
    one_type &= in[j].values.dtype == in[0].values.dtype && !is_code(in[j].values.dtype);
    pointers[j] = in[j].values.data;
    dtypes[j] = in[j].values.dtype;
    scales[j] = in[j].scales;
  }
  const DenseTensor& first = in[0].values;
  if (first.device != kCpu && k > size_t(kMostColumns)) return py::none();
  GatedCombination job{};
  job.k = int(k);
  job.in = pointers.data();
  job.in_dtype = dtypes.data();
  job.scales = scales.data();
  job.weights = w.data();
  job.total = first.numel();
  job.row = first.ndim == 0 ? 1 : first.shape[first.ndim - 1];
  DenseTensor r, g, y;
  if (!residual.is_none()) {
    if (!reader().read(residual.ptr(), grad, &r) || !r.matches(first)) return py::none();
    job.residual = r.data;
    job.residual_dtype = r.dtype;
  }
  if (!gate.is_none()) {
    if (!reader().read(gate.ptr(), grad, &g) || !runs_of(g, first, &job.inner, &job.repeats)) return py::none();
    const int64_t run = job.inner == 1 ? job.repeats : job.inner;
    if (first.device == kCpu && job.repeats > 1 && run < kShortestRun) return py::none();
    job.gate = g.data;
    job.gate_dtype = g.dtype;
  }

  if (out.is_none() && residual.is_none() && !one_type) return py::none();
  const py::handle like = !residual.is_none() ? residual : py::handle(ins.data[0]);
  const py::object result = out.is_none()
                                ? py::reinterpret_steal<py::object>(PyObject_CallOneArg(empty_like.ptr(), like.ptr()))
                                : py::reinterpret_borrow<py::object>(out);
  if (!result) throw py::error_already_set();
  if (!reader().read(result.ptr(), grad && !out.is_none(), &y) || !y.matches(first)) return py::none();
  if (job.total == 0) return result;
  const char* const name = "gated_combination";
  if (!residual.is_none()) refuse_partial_overlap(name, "residual", y, r);
  if (!gate.is_none()) refuse_partial_overlap(name, "gate", y, g);
  for (size_t j = 0; j < k; ++j) {
    refuse_partial_overlap(name, ("tensors[" + std::to_string(j) + "]").c_str(), y, in[j].values);
    if (touch(y.data, y.numel() * size_of(y.dtype), in[j].scales,
              in[j].scales == nullptr ? 0 : job.total / job.row * 4))
      throw std::invalid_argument("gated_combination: out overlaps the scales of tensors[" + std::to_string(j) + "]");
  }
  job.out = y.data;
  job.out_dtype = y.dtype;
  run_on(
      first.device, job.total * int64_t(2 * k + 4), [&] { gated_combination_cpu(job, *chosen, max_threads()); },
      [&](auto stream) { gated_combination_cuda(job, stream); });
  return result;
}

// (sum |a - b|, sum |b|) of CPU tensors, or None.
inline py::object relative_l1_tensors(py::handle a, py::handle b) {
  DenseTensor x, y;
  if (!reader().read(a.ptr(), false, &x) || !reader().read(b.ptr(), false, &y) || !x.matches(y)) return py::none();
  if (x.device != kCpu) return py::none();
  const RelativeL1 job{x.data, y.data, x.dtype, y.dtype, x.numel()};
  double sums[2];
  run_native(job.total * 4, [&] { relative_l1_cpu(job, *chosen, max_threads(), sums); });
  return py::make_tuple(sums[0], sums[1]);
}

// The sums of GPU tensors in parts, two float64 numbers for each of the blocks that partial [blocks, 2] has room for;
// and the quotient of all parts in out, float32 or float64. False, and nothing done, where a kernel does not take
// these.
inline bool relative_l1_partial(py::handle a, py::handle b, py::handle partial) {
  DenseTensor x, y, sums;
  if (!reader().read(a.ptr(), false, &x) || !reader().read(b.ptr(), false, &y) || !x.matches(y)) return false;
  if (!reader().read(partial.ptr(), false, &sums) || sums.dtype != DType::f64 || sums.device != x.device) return false;
  if (x.device == kCpu || sums.numel() != 2 * relative_l1_blocks(x.numel())) return false;
  run_on(
      x.device, 0, [] {},
      [&](auto stream) {
        relative_l1_partial_cuda({x.data, y.data, x.dtype, y.dtype, x.numel()}, static_cast<double*>(sums.data),
                                 stream);
      });
  return true;
}

inline bool relative_l1_quotient(py::handle partial, py::handle out) {
  DenseTensor sums, y;
  if (!reader().read(partial.ptr(), false, &sums) || sums.dtype != DType::f64 || sums.numel() % 2 != 0) return false;
  if (!reader().read(out.ptr(), false, &y) || y.numel() != 1 || y.device != sums.device) return false;
  if (y.device == kCpu || size_of(y.dtype) < 4) return false;
  run_on(
      y.device, 0, [] {},
      [&](auto stream) {
        relative_l1_quotient_cuda(static_cast<const double*>(sums.data), sums.numel() / 2, y.data, y.dtype, stream);
      });
  return true;
}

// Fills codes [..., n] and scales [...], both new; False, and nothing done, where the kernel does not take these.
inline bool quantize_tensor(py::handle x, py::handle minus, py::handle codes, py::handle scales) {
  DenseTensor v, m, c, s;
  if (!reader().read(x.ptr(), false, &v) || v.ndim < 1 || v.dtype == DType::f64) return false;
  if (!reader().read_codes(codes.ptr(), &c) || !c.matches(v)) return false;
  if (!reader().read(scales.ptr(), false, &s) || s.dtype != DType::f32) return false;
  Quantization job{v.data, nullptr, v.dtype, v.dtype, c.data, c.dtype, static_cast<float*>(s.data), 1, 0};
  job.width = v.shape[v.ndim - 1];
  for (int d = 0; d + 1 < v.ndim; ++d) job.rows *= v.shape[d];
  if (s.numel() != job.rows || s.device != v.device) return false;
  if (!minus.is_none()) {
    if (!reader().read(minus.ptr(), false, &m) || m.dtype == DType::f64 || !m.matches(v)) return false;
    job.minus = m.data;
    job.minus_dtype = m.dtype;
  }
  run_on(
      v.device, v.numel() * 4, [&] { quantize_cpu(job, *chosen, max_threads()); },
      [&](auto stream) { quantize_cuda(job, stream); });
  return true;
}

}  // namespace pyaccel
