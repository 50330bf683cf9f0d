// Looks at torch tensors without libtorch: where the data are, of which type and shape, and whether a kernel may read
// them.
//
// Since torch 2.10 the tensor type carries DLPack's table of C functions, one of which fills in a DLTensor without
// taking ownership; that costs a tenth of what Python's attributes cost. Older versions are asked for the attributes.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

#include "cuda/kernels.h"
#include "numeric.h"

namespace pyaccel {

// The part of DLPack's binary interface, major version 1, that is used here (github.com/dmlc/dlpack, dlpack.h).
namespace dlpack {

constexpr int32_t kCpu = 1, kCuda = 2;
constexpr uint8_t kInt = 0, kFloat = 2, kBfloat = 4, kE4m3fn = 10;

struct Tensor {
  void* data;
  int32_t device_type, device_id;
  int32_t ndim;
  uint8_t type_code, bits;
  uint16_t lanes;
  int64_t* shape;
  int64_t* strides;
  uint64_t byte_offset;
};

struct ExchangeApi {
  uint32_t major, minor;
  ExchangeApi* previous;
  void* allocator;
  void* managed_from_object;
  void* managed_to_object;
  int (*tensor_from_object)(void* object, Tensor* out);  // may be null
  void* current_work_stream;
};

}  // namespace dlpack

constexpr int kCpu = -1;  // as the number of a device; those of GPUs begin with 0

// What a kernel needs to know of a dense tensor.
struct DenseTensor {
  static constexpr int most_dimensions = 16;
  void* data;
  DType dtype;
  int device;
  int ndim;
  int64_t shape[most_dimensions];

  // Of the same shape and on the same device.
  bool matches(const DenseTensor& other) const {
    return device == other.device && ndim == other.ndim &&
           memcmp(shape, other.shape, size_t(ndim) * sizeof(int64_t)) == 0;
  }
  int64_t numel() const {
    int64_t product = 1;
    for (int d = 0; d < ndim; ++d) product *= shape[d];
    return product;
  }
};

class TensorReader {
 public:
  // parameter_type: the subclass whose memory means what a tensor's does. dtypes: torch's dtypes in the order of DType.
  // current_stream: from the number of a GPU to the address of the stream
  // that torch works in there, or None.
  void configure(pybind11::object tensor_type, pybind11::object parameter_type, pybind11::tuple dtypes,
                 pybind11::object current_stream, bool use_dlpack) {
    type_ = std::move(tensor_type);
    parameter_type_ = std::move(parameter_type);
    dtypes_ = std::move(dtypes);
    current_stream_ = std::move(current_stream);
    api_ = nullptr;
    if (!use_dlpack || !pybind11::hasattr(type_, "__dlpack_c_exchange_api__")) return;
    const pybind11::object capsule = type_.attr("__dlpack_c_exchange_api__");
    void* found = PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api");
    if (found == nullptr) PyErr_Clear();
    for (auto* api = static_cast<dlpack::ExchangeApi*>(found); api != nullptr; api = api->previous) {
      if (api->major == 1 && api->tensor_from_object != nullptr) {
        api_ = api;
        break;
      }
    }
  }

  bool uses_dlpack() const { return api_ != nullptr; }

  // The stream in which work on this GPU belongs.
  void* stream_of(int device) const {
    const pybind11::object stream = current_stream_(device);
    void* const address = PyLong_AsVoidPtr(stream.ptr());
    if (PyErr_Occurred()) throw pybind11::error_already_set();
    return address;
  }

  // False for anything but a dense tensor of a known type, on the CPU or on a GPU that there are kernels for, that
  // shows its own values and, where gradients are recorded (grad), requires none. Leaves no Python error behind.
  bool read(PyObject* object, bool grad, DenseTensor* to) const {
    return read_any(object, grad, to) && !is_code(to->dtype);
  }

  // The same for int8 or float8 e4m3fn, and for nothing else.
  bool read_codes(PyObject* object, DenseTensor* to) const { return read_any(object, false, to) && is_code(to->dtype); }

 private:
  bool read_any(PyObject* object, bool grad, DenseTensor* to) const {
    // Of any other subclass nobody knows what its memory means. A null type_ is nobody's type.
    auto* const type = reinterpret_cast<PyObject*>(Py_TYPE(object));
    if (type != type_.ptr() && type != parameter_type_.ptr()) return false;
    if (grad && !is(PyObject_GetAttr(object, names().requires_grad), Py_False)) return false;
    if (!(api_ != nullptr ? read_dlpack(object, to) : read_attributes(object, to))) return false;
    if (to->device != kCpu && (current_stream_.is_none() || !has_kernels(to->device))) return false;
    // Views whose values are negated when they are read, and zeros that have no memory.
    return is(PyObject_CallMethodNoArgs(object, names().is_neg), Py_False) && (to->data != nullptr || to->numel() == 0);
  }

  struct Names {
    PyObject* shape = PyUnicode_InternFromString("shape");
    PyObject* dtype = PyUnicode_InternFromString("dtype");
    PyObject* is_cpu = PyUnicode_InternFromString("is_cpu");
    PyObject* is_cuda = PyUnicode_InternFromString("is_cuda");
    PyObject* get_device = PyUnicode_InternFromString("get_device");
    PyObject* is_neg = PyUnicode_InternFromString("is_neg");
    PyObject* is_contiguous = PyUnicode_InternFromString("is_contiguous");
    PyObject* requires_grad = PyUnicode_InternFromString("requires_grad");
    PyObject* data_ptr = PyUnicode_InternFromString("data_ptr");
  };
  static const Names& names() {
    static const Names n;
    return n;
  }

  // Whether got, a new reference or null after an error, is value.
  static bool is(PyObject* got, PyObject* value) {
    if (got == nullptr) PyErr_Clear();
    Py_XDECREF(got);
    return got == value;
  }

  bool read_dlpack(PyObject* object, DenseTensor* to) const {
    dlpack::Tensor t;
    if (api_->tensor_from_object(object, &t) != 0) {
      PyErr_Clear();
      return false;
    }
    if (t.device_type != dlpack::kCpu && t.device_type != dlpack::kCuda) return false;
    if (t.lanes != 1 || t.ndim > DenseTensor::most_dimensions) return false;
    to->device = t.device_type == dlpack::kCpu ? kCpu : t.device_id;
    if (t.type_code == dlpack::kBfloat && t.bits == 16) {
      to->dtype = DType::bf16;
    } else if (t.type_code == dlpack::kFloat && (t.bits == 16 || t.bits == 32 || t.bits == 64)) {
      to->dtype = t.bits == 16 ? DType::f16 : t.bits == 32 ? DType::f32 : DType::f64;
    } else if (t.bits == 8 && (t.type_code == dlpack::kInt || t.type_code == dlpack::kE4m3fn)) {
      to->dtype = t.type_code == dlpack::kInt ? DType::i8 : DType::e4m3;
    } else {
      return false;
    }
    int64_t dense = 1;
    bool empty = false;
    bool contiguous = true;
    for (int d = t.ndim - 1; d >= 0; --d) {
      const int64_t size = to->shape[d] = t.shape[d];
      empty |= size == 0;
      contiguous &= t.strides == nullptr || size == 1 || t.strides[d] == dense;
      dense *= size;
    }
    if (!contiguous && !empty) return false;
    to->ndim = t.ndim;
    to->data = t.data == nullptr ? nullptr : static_cast<char*>(t.data) + t.byte_offset;
    return true;
  }

  bool read_attributes(PyObject* object, DenseTensor* to) const {
    namespace py = pybind11;
    const auto dtype = py::reinterpret_steal<py::object>(PyObject_GetAttr(object, names().dtype));
    if (!dtype) return PyErr_Clear(), false;
    size_t code = 0;
    while (code < dtypes_.size() && PyTuple_GET_ITEM(dtypes_.ptr(), Py_ssize_t(code)) != dtype.ptr()) ++code;
    if (code == dtypes_.size()) return false;
    to->dtype = DType(code);
    to->device = kCpu;
    if (!is(PyObject_GetAttr(object, names().is_cpu), Py_True)) {
      if (!is(PyObject_GetAttr(object, names().is_cuda), Py_True)) return false;
      const auto device = py::reinterpret_steal<py::object>(PyObject_CallMethodNoArgs(object, names().get_device));
      if (!device) return PyErr_Clear(), false;
      to->device = int(PyLong_AsLong(device.ptr()));
      if (PyErr_Occurred()) return PyErr_Clear(), false;
    }
    if (!is(PyObject_CallMethodNoArgs(object, names().is_contiguous), Py_True)) return false;
    const auto shape = py::reinterpret_steal<py::object>(PyObject_GetAttr(object, names().shape));
    if (!shape || !PyTuple_Check(shape.ptr())) return PyErr_Clear(), false;
    if (PyTuple_GET_SIZE(shape.ptr()) > DenseTensor::most_dimensions) return false;
    to->ndim = int(PyTuple_GET_SIZE(shape.ptr()));
    for (int d = 0; d < to->ndim; ++d) to->shape[d] = PyLong_AsLongLong(PyTuple_GET_ITEM(shape.ptr(), d));
    const auto address = py::reinterpret_steal<py::object>(PyObject_CallMethodNoArgs(object, names().data_ptr));
    if (!address) return PyErr_Clear(), false;
    to->data = PyLong_AsVoidPtr(address.ptr());
    if (PyErr_Occurred()) return PyErr_Clear(), false;
    return true;
  }

  static bool has_kernels(int device) {
#if defined(PYACCEL_CUDA)
    return cuda_problem(device).empty();
#else
    (void)device;
    return false;
#endif
  }

  pybind11::object type_, parameter_type_, current_stream_ = pybind11::none();
  pybind11::tuple dtypes_;
  const dlpack::ExchangeApi* api_ = nullptr;
};

inline TensorReader& reader() {
  static TensorReader* const r = new TensorReader;  // never destroyed: Python may be gone by then
  return *r;
}

}  // namespace pyaccel
