// ema_update of dense tensors on one device, served without a detour through Python.
#pragma once

#include <pybind11/pybind11.h>

#include <algorithm>
#include <string>
#include <vector>

#include "call_arguments.h"
#include "cpu/ema_cpu.h"

namespace pyaccel {

// The memory of one tensor: number index of the parameters (rate -1) or of the averages of a rate.
struct OwnedMemory {
  uintptr_t begin, end;
  int rate;
  size_t index;

  std::string name() const {
    const std::string place = "[" + std::to_string(index) + "]";
    return rate < 0 ? "params" + place : "ema[" + std::to_string(rate) + "]" + place;
  }
};

// An error where an average shares memory with any other tensor: they are written side by side, in any order.
inline void refuse_shared_averages(std::vector<OwnedMemory>& all) {
  std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.begin < b.begin; });
  const OwnedMemory *furthest = nullptr, *furthest_average = nullptr;
  for (const OwnedMemory& now : all) {
    const OwnedMemory* const other = now.rate < 0 ? furthest_average : furthest;
    if (other != nullptr && now.begin < other->end) {
      const OwnedMemory &average = now.rate < 0 ? *other : now, &second = now.rate < 0 ? now : *other;
      throw std::invalid_argument("ema_update: " + average.name() + " shares memory with " + second.name() +
                                  "; each average must have its own");
    }
    if (furthest == nullptr || now.end > furthest->end) furthest = &now;
    if (now.rate >= 0 && (furthest_average == nullptr || now.end > furthest_average->end)) furthest_average = &now;
  }
}

// ema: for each of the rates a list of as many tensors as there are params. False, and nothing done, unless all are
// dense tensors on one device, each of the shape of its parameter, none of ema requires gradients where those are
// recorded (grad), and the rates are numbers in [0, 1].
inline bool ema_update_tensors(py::handle ema, py::handle params, py::handle rates, bool grad) {
  const auto is_sequence = [](PyObject* o) { return PyList_Check(o) || PyTuple_Check(o); };
  if (!is_sequence(ema.ptr()) || !is_sequence(params.ptr()) || !is_sequence(rates.ptr())) return false;
  const Items lists(ema.ptr()), thetas(params.ptr()), numbers(rates.ptr());
  const size_t count = size_t(thetas.size), times = size_t(numbers.size);
  if (size_t(lists.size) != times || times == 0 || count == 0) return false;
  std::vector<double> betas(times);
  for (size_t r = 0; r < times; ++r) {
    betas[r] = number_or_nan(numbers.data[r]);
    if (!(betas[r] >= 0 && betas[r] <= 1) || !is_sequence(lists.data[r])) return false;
    if (PySequence_Fast_GET_SIZE(lists.data[r]) != thetas.size) return false;
  }
  std::vector<const void*> from(count);
  std::vector<void*> to(times * count);
  std::vector<DType> from_dtype(count), to_dtype(times * count);
  std::vector<int64_t> sizes(count);
  std::vector<OwnedMemory> memory;
  memory.reserve((times + 1) * count);
  const auto owns = [&](const DenseTensor& t, int rate, size_t index) {
    const auto begin = reinterpret_cast<uintptr_t>(t.data);
    const auto bytes = uintptr_t(t.numel() * size_of(t.dtype));
    if (bytes > 0) memory.push_back({begin, begin + bytes, rate, index});
  };
  int device = kCpu;
  DenseTensor theta, average;
  for (size_t i = 0; i < count; ++i) {
    if (!reader().read(thetas.data[i], false, &theta)) return false;
    if (i == 0) device = theta.device;
    if (theta.device != device) return false;
    from[i] = theta.data, from_dtype[i] = theta.dtype, sizes[i] = theta.numel();
    owns(theta, -1, i);
    for (size_t r = 0; r < times; ++r) {
      if (!reader().read(PySequence_Fast_ITEMS(lists.data[r])[i], grad, &average) || !average.matches(theta))
        return false;
      to[r * count + i] = average.data, to_dtype[r * count + i] = average.dtype;
      owns(average, int(r), i);
    }
  }
  refuse_shared_averages(memory);
  const EmaUpdate job{int64_t(count), int(times), from.data(),     from_dtype.data(),
                      sizes.data(),   to.data(),  to_dtype.data(), betas.data()};
  run_on(
      device, job.bytes(), [&] { ema_update_cpu(job, *chosen, max_threads()); },
      [&](auto stream) { ema_update_cuda(job, stream); });
  return true;
}

}  // namespace pyaccel
