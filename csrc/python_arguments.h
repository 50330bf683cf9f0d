// What Python hands over, read without copies: lists, numbers, addresses, seeds.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "numeric.h"

namespace pyaccel {

namespace py = pybind11;

inline DType dtype_of(long code) {
  if (code < 0 || code > 3) throw std::invalid_argument("unknown dtype code " + std::to_string(code));
  return DType(code);
}

// Borrowed view of a list or tuple.
struct Items {
  PyObject** data;
  Py_ssize_t size;
  explicit Items(PyObject* o) {
    if (!PyList_Check(o) && !PyTuple_Check(o)) throw py::type_error("expected a list or a tuple");
    data = PySequence_Fast_ITEMS(o);
    size = PySequence_Fast_GET_SIZE(o);
  }
};

inline double number(PyObject* o) {
  if (PyFloat_CheckExact(o)) return PyFloat_AS_DOUBLE(o);
  // Not whatever has a __float__: a tensor's would cut its gradient.
  if (!PyFloat_Check(o) && !PyLong_Check(o)) throw py::type_error("a coefficient is not a number");
  const double x = PyFloat_AsDouble(o);
  if (x == -1.0 && PyErr_Occurred()) throw py::error_already_set();
  return x;
}

inline void* pointer(PyObject* o) {
  void* p = PyLong_AsVoidPtr(o);
  if (p == nullptr && PyErr_Occurred()) throw py::error_already_set();
  return p;
}

inline void read_dtypes(PyObject* codes, std::vector<DType>& to) {
  const Items items(codes);
  to.reserve(items.size);
  for (Py_ssize_t i = 0; i < items.size; ++i) to.push_back(dtype_of(PyLong_AsLong(items.data[i])));
}

// Seeds or numbers of streams: False, and no Python error, unless all are Python's integers in [0, 2^63).
inline bool read_counters(PyObject* sequence, std::vector<uint64_t>& to) {
  if (!PyList_Check(sequence) && !PyTuple_Check(sequence)) return false;
  const Items items(sequence);
  to.reserve(size_t(items.size));
  for (Py_ssize_t i = 0; i < items.size; ++i) {
    if (!PyLong_CheckExact(items.data[i])) return false;
    int overflow = 0;
    const long long x = PyLong_AsLongLongAndOverflow(items.data[i], &overflow);
    if (overflow != 0 || x < 0) return false;
    to.push_back(uint64_t(x));
  }
  return true;
}

}  // namespace pyaccel
