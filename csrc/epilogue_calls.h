// threshold and blend of dense tensors on one device, served without a detour through Python.
#pragma once

#include <pybind11/pybind11.h>

#include <cmath>
#include <stdexcept>
#include <string>

#include "call_arguments.h"
#include "cpu/epilogues_cpu.h"
#include "runs.h"

namespace pyaccel {

// The result, or None, and nothing done, where anything is not as the kernel wants it. scratch(x0, bytes) makes a
// tensor beside x0 that a kernel may use for a while.
inline py::object threshold_tensor(py::handle x0, py::handle limit, py::handle ratio, py::handle out, bool grad,
                                   py::handle empty_like, py::handle scratch) {
  const double s = number_or_nan(limit.ptr()), q = number_or_nan(ratio.ptr());
  DenseTensor x, y;
  if (!(s > 0 && q >= 0 && q < 1) || !reader().read(x0.ptr(), grad, &x) || (q > 0 && x.ndim == 0)) return py::none();
  const py::object result = writable(out, x0, x, grad, empty_like, &y);
  if (!result) return py::none();
  const int64_t total = x.numel(), batch = x.ndim == 0 ? 1 : x.shape[0];
  if (total == 0) return result;
  refuse_partial_overlap("threshold", "x0", y, x);
  const Threshold job{x.data, y.data, x.dtype, batch, total / batch, s, q};
  run_on(
      x.device, 2 * total * size_of(x.dtype), [&] { threshold_cpu(job, *chosen, max_threads()); },
      [&](auto stream) {
        const py::object room = q > 0 ? scratch(x0, batch * kSelectionBytes) : py::none();
        void* const address = q > 0 ? pointer(room.attr("data_ptr")().ptr()) : nullptr;
        threshold_cuda(job, address, stream);
      });
  return result;
}

// The same for blend. The mask may have fewer or shorter dimensions than x.
inline py::object blend_tensors(py::handle x, py::handle mask, py::handle image, py::handle noise, py::handle alpha,
                                py::handle sigma, py::handle out, bool grad, py::handle empty_like) {
  static const char* const names[] = {"x", "image", "noise", "mask"};
  const py::handle given[] = {x, image, noise, mask};
  DenseTensor in[4], y;
  Blend job;
  job.alpha = number_or_nan(alpha.ptr());
  job.sigma = number_or_nan(sigma.ptr());
  if (!std::isfinite(job.alpha) || !std::isfinite(job.sigma)) return py::none();
  for (int j = 0; j < 4; ++j) {
    if (!reader().read(given[j].ptr(), grad, &in[j]) || (j < 3 && !in[j].matches(in[0]))) return py::none();
    job.in[j] = in[j].data;
    job.in_dtype[j] = in[j].dtype;
  }
  if (!runs_of(in[Blend::kMask], in[0], &job.inner, &job.repeats)) return py::none();
  if (in[0].device == kCpu && job.repeats > 1 && job.inner < kShortestRun) return py::none();
  const py::object result = writable(out, x, in[0], grad, empty_like, &y);
  if (!result) return py::none();
  job.total = in[0].numel();
  if (job.total == 0) return result;
  for (int j = 0; j < 4; ++j) refuse_partial_overlap("blend", names[j], y, in[j]);
  job.out = y.data;
  job.out_dtype = y.dtype;
  run_on(
      y.device, 5 * job.total * size_of(y.dtype), [&] { blend_cpu(job, *chosen, max_threads()); },
      [&](auto stream) { blend_cuda(job, stream); });
  return result;
}

}  // namespace pyaccel
