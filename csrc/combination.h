// A linear combination whose coefficients, element types and streams of noise are known, and the checks that stand
// between it and the kernels: counts, finite coefficients, overlap. Long work runs without the GIL.
#pragma once

#include <pybind11/pybind11.h>

#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/linear_combination_cpu.h"
#include "execution.h"
#include "python_arguments.h"
#include "scratch.h"

namespace pyaccel {

// Pointers, sizes and seeds come with each call.
class LinearCombination {
 public:
  // coefficients: one after the other, those of matrices [n, k + streams]; finite ones if check; none where they are in
  // a table on the device.
  LinearCombination(py::handle coefficients, int64_t matrices, py::handle in_dtypes, py::handle out_dtypes,
                    py::handle streams, bool check, bool in_table = false)
      : matrices_(matrices) {
    read_dtypes(in_dtypes.ptr(), in_dtype_);
    read_dtypes(out_dtypes.ptr(), out_dtype_);
    if (!read_counters(streams.ptr(), streams_)) throw std::invalid_argument("streams must be integers in [0, 2^63)");
    const Items c(coefficients.ptr());
    const size_t expected = in_table ? 0 : size_t(matrices) * columns() * outputs();
    if (matrices < 1 || columns() == 0 || outputs() == 0 || size_t(c.size) != expected)
      throw std::invalid_argument("expected " + std::to_string(expected) + " coefficients, got " +
                                  std::to_string(c.size));
    reserve(expected);
    for (Py_ssize_t i = 0; i < c.size; ++i) add(number(c.data[i]), check);
  }

  // Shared coefficients as a list of rows, one for each output, each a list with a number for each input and stream.
  LinearCombination(const Items& rows, std::vector<DType> in_dtypes, std::vector<DType> out_dtypes,
                    std::vector<uint64_t> streams)
      : matrices_(1), in_dtype_(std::move(in_dtypes)), out_dtype_(std::move(out_dtypes)), streams_(std::move(streams)) {
    reserve(columns() * outputs());
    for (Py_ssize_t a = 0; a < rows.size; ++a) {
      const Items row(rows.data[a]);
      if (size_t(row.size) != columns()) throw py::type_error("a row of coefficients is too long or too short");
      for (Py_ssize_t j = 0; j < row.size; ++j) add(number(row.data[j]), true);
    }
  }

  size_t inputs() const { return in_dtype_.size(); }
  size_t outputs() const { return out_dtype_.size(); }
  bool noisy() const { return !streams_.empty(); }
  DType in_dtype(size_t j) const { return in_dtype_[j]; }
  DType out_dtype(size_t a) const { return out_dtype_[a]; }

  // Whether one call of this device's kernel has room for it.
  bool fits(int device) const { return device == kCpu || columns() <= size_t(kMostColumns); }

  // Every pointer must be good for total elements of its type, on this device. seeds: one for each sample, where there
  // is noise. table: the coefficients, where they are on the device.
  void run(const void* const* in, void* const* out, int64_t total, const std::vector<uint64_t>& seeds,
           int device = kCpu, const void* table = nullptr) const {
    const int64_t batch = noisy() ? int64_t(seeds.size()) : matrices_;
    const Combination job{int(outputs()),
                          int(inputs()),
                          batch,
                          batch == 0 ? 0 : total / batch,
                          c64_.data(),
                          matrices_ == 1 ? 0 : int64_t(columns() * outputs()),
                          in,
                          in_dtype_.data(),
                          out,
                          out_dtype_.data(),
                          int(streams_.size()),
                          seeds.data(),
                          streams_.data()};
    refuse_overlap(job);
    const int64_t effort = int64_t(sizeof(float)) * (job.n + job.k) + kBytesOfNormal * job.streams;
    run_on(
        device, total * effort, [&] { linear_combination_cpu(job, c32_.data(), *chosen, max_threads()); },
        [&](auto stream) { linear_combination_cuda(job, table, stream); });
  }

  // The same with lists of addresses; inner: elements of each sample.
  void run(py::handle in, py::handle out, int64_t inner, py::handle seeds, int device, const void* table) const {
    const Items ins(in.ptr()), outs(out.ptr());
    std::vector<uint64_t> counters;
    if (noisy() && !read_counters(seeds.ptr(), counters))
      throw std::invalid_argument("seeds must be integers in [0, 2^63)");
    const int64_t batch = noisy() ? int64_t(counters.size()) : matrices_;
    if (size_t(ins.size) != inputs() || size_t(outs.size) != outputs() || inner < 0 ||
        (matrices_ != 1 && batch != matrices_))
      throw std::invalid_argument("the number of pointers or seeds or the size does not fit this combination");
    Scratch<const void*> in_pointers(inputs());
    Scratch<void*> out_pointers(outputs());
    const bool empty = inner == 0;
    const auto checked = [&](PyObject* o) {
      void* p = pointer(o);
      if (p == nullptr && !empty) throw std::invalid_argument("a tensor has no memory");
#if defined(PYACCEL_CUDA)
      if (device != kCpu && !empty) require_memory_of(device, p, "linear_combination");
#endif
      return p;
    };
    for (size_t j = 0; j < inputs(); ++j) in_pointers[j] = checked(ins.data[j]);
    for (size_t a = 0; a < outputs(); ++a) out_pointers[a] = checked(outs.data[a]);
    run(in_pointers.data(), out_pointers.data(), batch * inner, counters, device, table);
  }

 private:
  size_t columns() const { return in_dtype_.size() + streams_.size(); }

  void reserve(size_t count) {
    c64_.reserve(count);
    c32_.reserve(count);
  }

  void add(double x, bool check) {
    if (check && !std::isfinite(x)) {
      const size_t place = c64_.size() % (columns() * outputs());
      throw std::invalid_argument("linear_combination: coefficient [" + std::to_string(place / columns()) + "][" +
                                  std::to_string(place % columns()) + "] is " + std::to_string(x) +
                                  "; coefficients must be finite");
    }
    c64_.push_back(x);
    c32_.push_back(float(x));
  }

  static void refuse_overlap(const Combination& job) {
    const int64_t total = job.batch * job.inner;
    for (int a = 0; a < job.n; ++a) {
      const int64_t bytes = total * size_of(job.out_dtype[a]);
      const auto name = [a] { return "linear_combination: out[" + std::to_string(a) + "]"; };
      for (int j = 0; j < job.k; ++j) {
        if (!touch(job.out[a], bytes, job.in[j], total * size_of(job.in_dtype[j]))) continue;
        if (job.out[a] != job.in[j] || job.out_dtype[a] != job.in_dtype[j])
          throw std::invalid_argument(name() + " overlaps tensors[" + std::to_string(j) +
                                      "] in part; it may be exactly one of the inputs, or share no memory with any");
        if (job.n > kMostOutputs)
          throw std::invalid_argument(name() + " is tensors[" + std::to_string(j) + "]; with more than " +
                                      std::to_string(kMostOutputs) + " outputs the caller has to copy it first");
      }
      for (int b = 0; b < a; ++b)
        if (touch(job.out[a], bytes, job.out[b], total * size_of(job.out_dtype[b])))
          throw std::invalid_argument(name() + " overlaps out[" + std::to_string(b) + "]");
    }
  }

  int64_t matrices_;  // of coefficients: 1 when all samples share them
  std::vector<DType> in_dtype_, out_dtype_;
  std::vector<uint64_t> streams_;
  std::vector<double> c64_;
  std::vector<float> c32_;
};

}  // namespace pyaccel
