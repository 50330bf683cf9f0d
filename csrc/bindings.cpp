// pyaccel._native: pointers, element types and sizes in; tensors stay in Python, and so do the checks that need them.
//
// What can be checked without a tensor is checked here: counts, finite coefficients, overlap. The common case, dense
// CPU tensors of one shape, is looked at from here too (tensors.h). Long work runs without the GIL.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "cpu/ceiling.h"
#include "cpu/linear_combination_cpu.h"
#include "tensors.h"

namespace py = pybind11;
using namespace pyaccel;

namespace {

constexpr int64_t kBytesWithGil = 1 << 16;  // below that, giving up the GIL costs more than it is worth

const CpuKernel* chosen = available_kernels()[0];

int max_threads() {
#if defined(_OPENMP)
  return omp_get_max_threads();
#else
  return 1;
#endif
}

DType dtype_of(long code) {
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

double number(PyObject* o) {
  if (PyFloat_CheckExact(o)) return PyFloat_AS_DOUBLE(o);
  // Not whatever has a __float__: a tensor's would cut its gradient.
  if (!PyFloat_Check(o) && !PyLong_Check(o)) throw py::type_error("a coefficient is not a number");
  const double x = PyFloat_AsDouble(o);
  if (x == -1.0 && PyErr_Occurred()) throw py::error_already_set();
  return x;
}

void* pointer(PyObject* o) {
  void* p = PyLong_AsVoidPtr(o);
  if (p == nullptr && PyErr_Occurred()) throw py::error_already_set();
  return p;
}

// Room for one call's items: on the stack unless they are many. Another thread may run the same combination.
template <typename T>
class Scratch {
 public:
  explicit Scratch(size_t size) {
    if (size > few) many_.resize(size);
  }
  T* data() { return many_.empty() ? few_ : many_.data(); }
  T& operator[](size_t i) { return data()[i]; }

 private:
  static constexpr size_t few = 16;
  T few_[few];
  std::vector<T> many_;
};

void read_dtypes(PyObject* codes, std::vector<DType>& to) {
  const Items items(codes);
  to.reserve(items.size);
  for (Py_ssize_t i = 0; i < items.size; ++i) to.push_back(dtype_of(PyLong_AsLong(items.data[i])));
}

// A combination whose coefficients and element types are known; pointers and sizes come with each call.
class LinearCombination {
 public:
  // coefficients: batch lists of n·k numbers, one after the other; finite ones if check.
  LinearCombination(py::handle coefficients, int64_t batch, py::handle in_dtypes, py::handle out_dtypes, bool check)
      : batch_(batch) {
    read_dtypes(in_dtypes.ptr(), in_dtype_);
    read_dtypes(out_dtypes.ptr(), out_dtype_);
    const Items c(coefficients.ptr());
    const size_t expected = size_t(batch) * inputs() * outputs();
    if (batch < 1 || inputs() == 0 || outputs() == 0 || size_t(c.size) != expected)
      throw std::invalid_argument("expected " + std::to_string(expected) + " coefficients, got " +
                                  std::to_string(c.size));
    reserve(expected);
    for (Py_ssize_t i = 0; i < c.size; ++i) add(number(c.data[i]), check);
  }

  // Shared coefficients as a list of rows, one for each output, each a list with a number for each input.
  LinearCombination(const Items& rows, std::vector<DType> in_dtypes, std::vector<DType> out_dtypes)
      : batch_(1), in_dtype_(std::move(in_dtypes)), out_dtype_(std::move(out_dtypes)) {
    reserve(inputs() * outputs());
    for (Py_ssize_t a = 0; a < rows.size; ++a) {
      const Items row(rows.data[a]);
      if (size_t(row.size) != inputs()) throw py::type_error("a row of coefficients is too long or too short");
      for (Py_ssize_t j = 0; j < row.size; ++j) add(number(row.data[j]), true);
    }
  }

  size_t inputs() const { return in_dtype_.size(); }
  size_t outputs() const { return out_dtype_.size(); }
  DType in_dtype(size_t j) const { return in_dtype_[j]; }
  DType out_dtype(size_t a) const { return out_dtype_[a]; }

  // inner: elements of each of the batch's samples. Every pointer must be good for batch·inner elements of its type.
  void run(const void* const* in, void* const* out, int64_t inner) const {
    const Combination job{int(outputs()),   int(inputs()), batch_,           inner, c64_.data(), in,
                          in_dtype_.data(), out,           out_dtype_.data()};
    refuse_overlap(job);
    const CpuKernel& kernel = *chosen;
    const int threads = max_threads();
    if (batch_ * inner * int64_t(sizeof(float)) * (job.n + job.k) < kBytesWithGil) {
      linear_combination_cpu(job, c32_.data(), kernel, threads);
    } else {
      py::gil_scoped_release release;
      linear_combination_cpu(job, c32_.data(), kernel, threads);
    }
  }

  // The same with lists of addresses.
  void run(py::handle in, py::handle out, int64_t inner) const {
    const Items ins(in.ptr()), outs(out.ptr());
    if (size_t(ins.size) != inputs() || size_t(outs.size) != outputs() || inner < 0)
      throw std::invalid_argument("the number of pointers or the size does not fit this combination");
    Scratch<const void*> in_pointers(inputs());
    Scratch<void*> out_pointers(outputs());
    const bool empty = inner == 0;
    const auto checked = [&](PyObject* o) {
      void* p = pointer(o);
      if (p == nullptr && !empty) throw std::invalid_argument("a tensor has no memory");
      return p;
    };
    for (size_t j = 0; j < inputs(); ++j) in_pointers[j] = checked(ins.data[j]);
    for (size_t a = 0; a < outputs(); ++a) out_pointers[a] = checked(outs.data[a]);
    run(in_pointers.data(), out_pointers.data(), inner);
  }

 private:
  void reserve(size_t count) {
    c64_.reserve(count);
    c32_.reserve(count);
  }

  void add(double x, bool check) {
    if (check && !std::isfinite(x)) {
      const size_t place = c64_.size() % (inputs() * outputs());
      throw std::invalid_argument("linear_combination: coefficient [" + std::to_string(place / inputs()) + "][" +
                                  std::to_string(place % inputs()) + "] is " + std::to_string(x) +
                                  "; coefficients must be finite");
    }
    c64_.push_back(x);
    c32_.push_back(float(x));
  }

  static bool touch(const void* a, int64_t a_bytes, const void* b, int64_t b_bytes) {
    const auto x = reinterpret_cast<uintptr_t>(a), y = reinterpret_cast<uintptr_t>(b);
    return x < y + uintptr_t(b_bytes) && y < x + uintptr_t(a_bytes);
  }

  static void refuse_overlap(const Combination& job) {
    const int64_t total = job.batch * job.inner;
    for (int a = 0; a < job.n; ++a) {
      const int64_t bytes = total * size_of(job.out_dtype[a]);
      const std::string name = "linear_combination: out[" + std::to_string(a) + "]";
      for (int j = 0; j < job.k; ++j) {
        if (!touch(job.out[a], bytes, job.in[j], total * size_of(job.in_dtype[j]))) continue;
        if (job.out[a] != job.in[j] || job.out_dtype[a] != job.in_dtype[j])
          throw std::invalid_argument(name + " overlaps tensors[" + std::to_string(j) +
                                      "] in part; it may be exactly one of the inputs, or share no memory with any");
        if (job.n > kMostOutputs)
          throw std::invalid_argument(name + " is tensors[" + std::to_string(j) + "]; with more than " +
                                      std::to_string(kMostOutputs) + " outputs the caller has to copy it first");
      }
      for (int b = 0; b < a; ++b)
        if (touch(job.out[a], bytes, job.out[b], total * size_of(job.out_dtype[b])))
          throw std::invalid_argument(name + " overlaps out[" + std::to_string(b) + "]");
    }
  }

  int64_t batch_;
  std::vector<DType> in_dtype_, out_dtype_;
  std::vector<double> c64_;
  std::vector<float> c32_;
};

TensorReader& reader() {
  static TensorReader* const r = new TensorReader;  // never destroyed: Python may be gone by then
  return *r;
}

// A LinearCombination that takes tensors and makes sure on each call that every pointer is good.
class PreparedCombination {
 public:
  PreparedCombination(py::handle coefficients, py::handle in_codes, py::handle out_codes)
      : kernel_(coefficients, 1, in_codes, out_codes, true) {}

  // False, and nothing done, unless all are dense CPU tensors of one shape and of the prepared dtypes, and none
  // requires gradients where those are recorded.
  bool run(py::handle in, py::handle out, bool grad) const {
    const Items ins(in.ptr()), outs(out.ptr());
    if (size_t(ins.size) != kernel_.inputs() || size_t(outs.size) != kernel_.outputs()) return false;
    Scratch<const void*> in_pointers(kernel_.inputs());
    Scratch<void*> out_pointers(kernel_.outputs());
    DenseTensor first, t;
    if (!reader().read(ins.data[0], grad, &first) || first.dtype != kernel_.in_dtype(0)) return false;
    in_pointers[0] = first.data;
    for (size_t j = 1; j < kernel_.inputs(); ++j) {
      if (!reader().read(ins.data[j], grad, &t) || t.dtype != kernel_.in_dtype(j) || !t.same_shape(first)) return false;
      in_pointers[j] = t.data;
    }
    for (size_t a = 0; a < kernel_.outputs(); ++a) {
      if (!reader().read(outs.data[a], grad, &t) || t.dtype != kernel_.out_dtype(a) || !t.same_shape(first))
        return false;
      out_pointers[a] = t.data;
    }
    kernel_.run(in_pointers.data(), out_pointers.data(), first.numel());
    return true;
  }

 private:
  LinearCombination kernel_;
};

// The common case of linear_combination, unprepared: a list of outputs, or None, and nothing done, where the tensors or
// coefficients are anything but dense CPU tensors of one shape and a list of lists of numbers. out may be None: then
// empty_like makes the outputs, if the inputs have one dtype.
py::object combine_tensors(py::handle tensors, py::handle coefficients, py::handle out, bool grad,
                           py::handle empty_like) {
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
    if (!reader().read(ins.data[j], grad, &now) || !now.same_shape(first)) return py::none();
    if (out.is_none() && now.dtype != first.dtype) return py::none();
    in_pointers[j] = now.data;
    in_dtypes[j] = now.dtype;
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
    if (!reader().read(PyList_GET_ITEM(results.ptr(), Py_ssize_t(a)), grad, &t) || !t.same_shape(first))
      return py::none();
    out_pointers[a] = t.data;
    out_dtypes[a] = t.dtype;
  }
  try {
    LinearCombination(rows, std::move(in_dtypes), std::move(out_dtypes))
        .run(in_pointers.data(), out_pointers.data(), first.numel());
  } catch (const py::type_error&) {
    return py::none();  // coefficients that are not numbers: the general path says which
  }
  return results;
}

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const CpuKernel* const* k = available_kernels(); *k != nullptr; ++k) names.emplace_back((*k)->name);
  return names;
}

void use_instruction_set(const std::string& name) {
  for (const CpuKernel* const* k = available_kernels(); *k != nullptr; ++k) {
    if (name == (*k)->name) {
      chosen = *k;
      return;
    }
  }
  throw std::invalid_argument("this machine or build has no instruction set '" + name + "'");
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "Compiled kernels of pyaccel; use them through pyaccel.ops.";
  py::class_<PreparedCombination>(m, "PreparedCombination")
      .def(py::init<py::handle, py::handle, py::handle>())
      .def("run", &PreparedCombination::run);
  m.def(
      "configure",
      [](py::object tensor_type, py::tuple dtypes, bool dlpack) {
        reader().configure(std::move(tensor_type), std::move(dtypes), dlpack);
        return reader().uses_dlpack();
      },
      "Tells which type tensors have, and their dtypes in the order of the codes; True if DLPack's C functions are "
      "used.",
      py::arg("tensor_type"), py::arg("dtypes"), py::arg("dlpack") = true);
  m.def("combine", &combine_tensors);
  m.def("linear_combination", [](py::handle c, int64_t batch, py::handle in, py::handle in_dtypes, py::handle out,
                                 py::handle out_dtypes, int64_t inner, bool check) {
    LinearCombination(c, batch, in_dtypes, out_dtypes, check).run(in, out, inner);
  });
  m.def(
      "read_write_ceiling",
      [](const std::vector<uintptr_t>& in, uintptr_t out, int64_t bytes, bool stream) {
        if (in.empty() || bytes < 0 || bytes % 64 != 0 || out % 64 != 0 || out == 0)
          throw std::invalid_argument("expected pointers, and an output and a size that 64 divides");
        const int threads = max_threads();
        py::gil_scoped_release release;
        read_write_ceiling(reinterpret_cast<const char* const*>(in.data()), int(in.size()),
                           reinterpret_cast<char*>(out), bytes, stream, threads);
      },
      "For benchmarks: reads every input and writes one output with as little arithmetic as there can be.");
  m.def("instruction_sets", &instruction_sets, "What this machine can run, best first.");
  m.def("instruction_set", [] { return std::string(chosen->name); }, "What is in use.");
  m.def("use_instruction_set", &use_instruction_set);
  m.def("threads", &max_threads);
  m.attr("most_outputs_in_place") = kMostOutputs;
}
