// pyaccel._native: pointers, element types and sizes in; tensors stay in Python, and so do the checks that need them.
//
// What can be checked without a tensor is checked here: counts, finite coefficients, overlap. Long work runs without
// the GIL.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "cpu/linear_combination_cpu.h"

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
  const double x = PyFloat_CheckExact(o) ? PyFloat_AS_DOUBLE(o) : PyFloat_AsDouble(o);
  if (x == -1.0 && PyErr_Occurred()) throw py::error_already_set();
  return x;
}

void* pointer(PyObject* o) {
  void* p = PyLong_AsVoidPtr(o);
  if (p == nullptr && PyErr_Occurred()) throw py::error_already_set();
  return p;
}

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
    const size_t expected = size_t(batch) * in_dtype_.size() * out_dtype_.size();
    if (batch < 1 || in_dtype_.empty() || out_dtype_.empty() || size_t(c.size) != expected)
      throw std::invalid_argument("expected " + std::to_string(expected) + " coefficients, got " + std::to_string(c.size));
    c64_.reserve(expected);
    c32_.reserve(expected);
    for (Py_ssize_t i = 0; i < c.size; ++i) {
      const double x = number(c.data[i]);
      if (check && !std::isfinite(x)) {
        const size_t place = size_t(i) % (in_dtype_.size() * out_dtype_.size());
        throw std::invalid_argument("coefficient [" + std::to_string(place / in_dtype_.size()) + "][" +
                                    std::to_string(place % in_dtype_.size()) + "] is " + std::to_string(x) +
                                    "; coefficients must be finite");
      }
      c64_.push_back(x);
      c32_.push_back(float(x));
    }
  }

  // inner: elements of each of the batch's samples. Every pointer must be good for batch·inner elements of its type.
  void run(py::handle in, py::handle out, int64_t inner) const {
    const Items ins(in.ptr()), outs(out.ptr());
    if (size_t(ins.size) != in_dtype_.size() || size_t(outs.size) != out_dtype_.size() || inner < 0)
      throw std::invalid_argument("the number of pointers or the size does not fit this combination");
    // Pointers of this call live on the stack of this call: another thread may run the same combination.
    constexpr size_t few = 16;
    const void* in_few[few];
    void* out_few[few];
    std::vector<const void*> in_many;
    std::vector<void*> out_many;
    const void** in_pointers = in_few;
    void** out_pointers = out_few;
    if (in_dtype_.size() > few) in_many.resize(in_dtype_.size()), in_pointers = in_many.data();
    if (out_dtype_.size() > few) out_many.resize(out_dtype_.size()), out_pointers = out_many.data();
    for (Py_ssize_t j = 0; j < ins.size; ++j) in_pointers[j] = pointer(ins.data[j]);
    for (Py_ssize_t a = 0; a < outs.size; ++a) out_pointers[a] = pointer(outs.data[a]);

    const Combination job{int(outs.size), int(ins.size),     batch_,       inner,            c64_.data(),
                          in_pointers,    in_dtype_.data(), out_pointers, out_dtype_.data()};
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

 private:
  static bool touch(const void* a, int64_t a_bytes, const void* b, int64_t b_bytes) {
    const auto x = reinterpret_cast<uintptr_t>(a), y = reinterpret_cast<uintptr_t>(b);
    return x < y + uintptr_t(b_bytes) && y < x + uintptr_t(a_bytes);
  }

  static void refuse_overlap(const Combination& job) {
    const int64_t total = job.batch * job.inner;
    for (int a = 0; a < job.n; ++a) {
      const int64_t bytes = total * size_of(job.out_dtype[a]);
      const std::string name = "out[" + std::to_string(a) + "]";
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

// A LinearCombination that takes tensors. They are looked at through their Python attributes, as anybody would, but
// from here: that costs half of what it costs in Python, and makes sure on each call that every pointer is good.
class PreparedCombination {
 public:
  PreparedCombination(py::handle coefficients, py::handle in_codes, py::handle out_codes, py::tuple in_dtypes,
                      py::tuple out_dtypes, py::object tensor_type)
      : kernel_(coefficients, 1, in_codes, out_codes, true),
        in_dtypes_(std::move(in_dtypes)),
        out_dtypes_(std::move(out_dtypes)),
        tensor_type_(std::move(tensor_type)) {}

  // False, and nothing done, unless all are dense CPU tensors of one shape and of the prepared dtypes, and none
  // requires gradients where those are recorded.
  bool run(py::handle in, py::handle out, bool grad) const {
    const Items ins(in.ptr()), outs(out.ptr());
    if (size_t(ins.size) != in_dtypes_.size() || size_t(outs.size) != out_dtypes_.size()) return false;
    const py::object shape = py::reinterpret_steal<py::object>(PyObject_GetAttr(ins.data[0], names().shape));
    if (!shape) throw py::error_already_set();
    py::object in_pointers = py::reinterpret_steal<py::object>(PyTuple_New(ins.size));
    py::object out_pointers = py::reinterpret_steal<py::object>(PyTuple_New(outs.size));
    if (!gather(ins, in_dtypes_, shape, grad, in_pointers) || !gather(outs, out_dtypes_, shape, grad, out_pointers))
      return false;
    int64_t inner = 1;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(shape.ptr()); ++i)
      inner *= PyLong_AsLongLong(PyTuple_GET_ITEM(shape.ptr(), i));
    kernel_.run(in_pointers, out_pointers, inner);
    return true;
  }

 private:
  struct Names {
    PyObject* shape = PyUnicode_InternFromString("shape");
    PyObject* dtype = PyUnicode_InternFromString("dtype");
    PyObject* is_cpu = PyUnicode_InternFromString("is_cpu");
    PyObject* is_contiguous = PyUnicode_InternFromString("is_contiguous");
    PyObject* requires_grad = PyUnicode_InternFromString("requires_grad");
    PyObject* data_ptr = PyUnicode_InternFromString("data_ptr");
  };
  static const Names& names() {
    static const Names n;
    return n;
  }

  static bool attribute_is(PyObject* o, PyObject* name, PyObject* value) {
    const py::object got = py::reinterpret_steal<py::object>(PyObject_GetAttr(o, name));
    if (!got) throw py::error_already_set();
    return got.ptr() == value;
  }

  bool gather(const Items& tensors, const py::tuple& dtypes, const py::object& shape, bool grad, py::object& to) const {
    for (Py_ssize_t i = 0; i < tensors.size; ++i) {
      PyObject* t = tensors.data[i];
      if (reinterpret_cast<PyObject*>(Py_TYPE(t)) != tensor_type_.ptr()) return false;
      if (!attribute_is(t, names().dtype, PyTuple_GET_ITEM(dtypes.ptr(), i))) return false;
      if (!attribute_is(t, names().is_cpu, Py_True)) return false;
      if (grad && !attribute_is(t, names().requires_grad, Py_False)) return false;
      const py::object mine = py::reinterpret_steal<py::object>(PyObject_GetAttr(t, names().shape));
      if (!mine || PyObject_RichCompareBool(mine.ptr(), shape.ptr(), Py_EQ) != 1) return false;
      const py::object dense = py::reinterpret_steal<py::object>(PyObject_CallMethodNoArgs(t, names().is_contiguous));
      if (dense.ptr() != Py_True) return false;
      PyObject* address = PyObject_CallMethodNoArgs(t, names().data_ptr);
      if (address == nullptr) throw py::error_already_set();
      PyTuple_SET_ITEM(to.ptr(), i, address);
    }
    return true;
  }

  LinearCombination kernel_;
  py::tuple in_dtypes_, out_dtypes_;
  py::object tensor_type_;
};

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
      .def(py::init<py::handle, py::handle, py::handle, py::tuple, py::tuple, py::object>())
      .def("run", &PreparedCombination::run);
  m.def("linear_combination", [](py::handle c, int64_t batch, py::handle in, py::handle in_dtypes, py::handle out,
                                 py::handle out_dtypes, int64_t inner, bool check) {
    LinearCombination(c, batch, in_dtypes, out_dtypes, check).run(in, out, inner);
  });
  m.def("instruction_sets", &instruction_sets, "What this machine can run, best first.");
  m.def("instruction_set", [] { return std::string(chosen->name); }, "What is in use.");
  m.def("use_instruction_set", &use_instruction_set);
  m.def("threads", &max_threads);
  m.attr("most_outputs_in_place") = kMostOutputs;
}
