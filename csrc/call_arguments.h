// The arguments of an operation on dense tensors: numbers, and an output that may be written.
#pragma once

#include <pybind11/pybind11.h>

#include <cmath>
#include <stdexcept>
#include <string>

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
  if (!reader().read(result.ptr(), given && grad, to) || to->dtype != like.dtype || !to->matches(like)) return {};
  return result;
}

inline void refuse_partial_overlap(const char* operation, const char* name, const DenseTensor& out,
                                   const DenseTensor& in) {
  if (out.data == in.data && out.dtype == in.dtype && out.numel() == in.numel()) return;
  if (touch(out.data, out.numel() * size_of(out.dtype), in.data, in.numel() * size_of(in.dtype)))
    throw std::invalid_argument(std::string(operation) + ": out overlaps " + name +
                                " in part; it may be exactly that, or share no memory with it");
}

}  // namespace pyaccel
