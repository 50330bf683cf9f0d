// The common case of linear_combination, dense tensors of one shape on one device, served without a detour through
// Python.
#pragma once

#include <pybind11/pybind11.h>

#include <utility>
#include <vector>

#include "combination.h"
#include "tensors.h"

namespace pyaccel {

// Whether there is a good seed for each sample, the first dimension of t.
inline bool read_seeds(PyObject* seeds, const DenseTensor& t, std::vector<uint64_t>& to) {
  return read_counters(seeds, to) && t.ndim > 0 && int64_t(to.size()) == t.shape[0];
}

// A LinearCombination that takes tensors and makes sure on each call that every pointer is good.
class PreparedCombination {
 public:
  PreparedCombination(py::handle coefficients, py::handle in_codes, py::handle out_codes, py::handle streams)
      : kernel_(coefficients, 1, in_codes, out_codes, streams, true) {
    if (kernel_.inputs() == 0) throw std::invalid_argument("a prepared combination needs an input");
  }

  // False, and nothing done, unless all are dense tensors of one shape and device and of the prepared dtypes, none
  // requires gradients where those are recorded, and each sample has a seed where there is noise.
  bool run(py::handle in, py::handle out, bool grad, py::handle seeds) const {
    const Items ins(in.ptr()), outs(out.ptr());
    if (size_t(ins.size) != kernel_.inputs() || size_t(outs.size) != kernel_.outputs()) return false;
    Scratch<const void*> in_pointers(kernel_.inputs());
    Scratch<void*> out_pointers(kernel_.outputs());
    DenseTensor first, t;
    if (!reader().read(ins.data[0], grad, &first) || first.dtype != kernel_.in_dtype(0)) return false;
    if (!kernel_.fits(first.device)) return false;
    in_pointers[0] = first.data;
    for (size_t j = 1; j < kernel_.inputs(); ++j) {
      if (!reader().read(ins.data[j], grad, &t) || t.dtype != kernel_.in_dtype(j) || !t.matches(first)) return false;
      in_pointers[j] = t.data;
    }
    for (size_t a = 0; a < kernel_.outputs(); ++a) {
      if (!reader().read(outs.data[a], grad, &t) || t.dtype != kernel_.out_dtype(a) || !t.matches(first)) return false;
      out_pointers[a] = t.data;
    }
    std::vector<uint64_t> counters;
    if (kernel_.noisy() && !read_seeds(seeds.ptr(), first, counters)) return false;
    kernel_.run(in_pointers.data(), out_pointers.data(), first.numel(), counters, first.device);
    return true;
  }

 private:
  LinearCombination kernel_;
};

// The same unprepared: a list of outputs, or None, and nothing done, where the tensors or coefficients are anything but
// dense tensors of one shape and device and a list of lists of numbers. out may be None: then empty_like makes the
// outputs, if the inputs have one dtype. noise: None or a tuple of seeds and streams.
inline py::object combine_tensors(py::handle tensors, py::handle coefficients, py::handle out, bool grad,
                                  py::handle empty_like, py::handle noise) {
  const auto is_sequence = [](py::handle o) { return PyList_Check(o.ptr()) || PyTuple_Check(o.ptr()); };
  if (!is_sequence(tensors) || !PyList_CheckExact(coefficients.ptr())) return py::none();
  const Items ins(tensors.ptr()), rows(coefficients.ptr());
  const size_t k = size_t(ins.size), n = size_t(rows.size);
  if (k == 0 || n == 0) return py::none();
  for (size_t a = 0; a < n; ++a)
    if (!PyList_CheckExact(rows.data[a])) return py::none();

  Scratch<const void*> in_pointers(k);
  std::vector<DType> in_dtypes(k), out_dtypes(n);
  DenseTensor first, t;
  for (size_t j = 0; j < k; ++j) {
    DenseTensor& now = j == 0 ? first : t;
    if (!reader().read(ins.data[j], grad, &now) || !now.matches(first)) return py::none();
    if (out.is_none() && now.dtype != first.dtype) return py::none();
    in_pointers[j] = now.data;
    in_dtypes[j] = now.dtype;
  }
  std::vector<uint64_t> seeds, streams;
  if (!noise.is_none()) {
    if (!PyTuple_Check(noise.ptr()) || PyTuple_GET_SIZE(noise.ptr()) != 2) return py::none();
    if (!read_seeds(PyTuple_GET_ITEM(noise.ptr(), 0), first, seeds)) return py::none();
    if (!read_counters(PyTuple_GET_ITEM(noise.ptr(), 1), streams)) return py::none();
  }

  py::list results;
  if (out.is_none()) {
    for (size_t a = 0; a < n; ++a) {
      const auto made = py::reinterpret_steal<py::object>(PyObject_CallOneArg(empty_like.ptr(), ins.data[0]));
      if (!made) throw py::error_already_set();
      results.append(made);
    }
  } else {
    if (!is_sequence(out) || n > size_t(kMostOutputs)) return py::none();
    const Items given(out.ptr());
    if (size_t(given.size) != n) return py::none();
    for (size_t a = 0; a < n; ++a) results.append(py::handle(given.data[a]));
  }
  Scratch<void*> out_pointers(n);
  for (size_t a = 0; a < n; ++a) {
    if (!reader().read(PyList_GET_ITEM(results.ptr(), Py_ssize_t(a)), grad, &t) || !t.matches(first)) return py::none();
    out_pointers[a] = t.data;
    out_dtypes[a] = t.dtype;
  }
  try {
    const LinearCombination kernel(rows, std::move(in_dtypes), std::move(out_dtypes), std::move(streams));
    if (!kernel.fits(first.device)) return py::none();
    kernel.run(in_pointers.data(), out_pointers.data(), first.numel(), seeds, first.device);
  } catch (const py::type_error&) {
    return py::none();  // coefficients that are not numbers: the general path says which
  }
  return results;
}

}  // namespace pyaccel
