// The loops of adaln (../adaln.h), for whichever Vec was included before this file.
#pragma once

#include "../adaln.h"
#include "lanes.h"

namespace pyaccel {
namespace {

// to[i] = f(to[i], the operand's element) for one entry of an operand.
template <typename Real, typename F>
PYACCEL_HD void update(const RowOperand& operand, int64_t entry, int64_t width, Real* to, F f) {
  with_real_type<Real>(operand.dtype, operand.data, entry * width, [&](auto from) {
    sweep<Real>(width, [&](auto lanes, auto units, int64_t i) PYACCEL_INLINED {
      using V = decltype(lanes);
      for (int u = 0; u < units; ++u) {
        const int64_t at = i + u * V::width;
        f(V::load(to + at), V::load(from + at)).store(to + at, false);
      }
    });
  });
}

template <typename Real>
PYACCEL_HD void fill(Real* to, int64_t width, Real value) {
  for (int64_t i = 0; i < width; ++i) to[i] = value;
}

// factor and offset of the rows that share these entries.
template <typename Real>
PYACCEL_HD void prepare_modulation(const AdaLN& job, int64_t scale, int64_t shift, Real* factor, Real* offset) {
  const auto product = [](auto a, auto b) { return a * b; };
  const auto sum = [](auto a, auto b) { return a + b; };
  fill<Real>(factor, job.width, 1);
  if (job.scale.data != nullptr) update(job.scale, scale, job.width, factor, sum);
  fill<Real>(offset, job.width, 0);
  if (job.bias.data != nullptr) {
    update(job.bias, 0, job.width, offset, sum);
    for (int64_t i = 0; i < job.width; ++i) offset[i] *= factor[i];
  }
  if (job.shift.data != nullptr) update(job.shift, shift, job.width, offset, sum);
  if (job.weight.data != nullptr) update(job.weight, 0, job.width, factor, product);
}

// held = residual + gate * branch, rounded to T. gate: null for 1.
template <typename Real, typename T, typename B>
PYACCEL_HD void add_branch(const T* residual, const B* branch, const Real* gate, int64_t width, bool ahead, T* held) {
  sweep<Real>(width, [&](auto lanes, auto units, int64_t i) PYACCEL_INLINED {
    using V = decltype(lanes);
    constexpr int step = units * V::width;
    if (ahead && step > 1) {
      prefetch<step * sizeof(T)>(reinterpret_cast<const char*>(residual + i) + kAhead);
      prefetch<step * sizeof(B)>(reinterpret_cast<const char*>(branch + i) + kAhead);
    }
    V sum[units];
    for (int u = 0; u < units; ++u) {
      const int64_t at = i + u * V::width;
      const V b = V::load(branch + at);
      sum[u] = V::load(residual + at) + (gate == nullptr ? b : V::load(gate + at) * b);
    }
    store_lanes<V, units>(sum, held + i, false);
  });
}

// One row: y, and a copy of x where sum is not null.
template <typename Real, typename T>
PYACCEL_HD void modulate_row(const AdaLN& job, const T* x, const Real* factor, const Real* offset, T* sum, T* out) {
  const int64_t width = job.width;
  const auto look_ahead = [&](auto lanes, auto units, int64_t i) PYACCEL_INLINED {
    constexpr int step = units * decltype(lanes)::width;
    if (job.stream && sum == nullptr && step > 1)
      prefetch<step * sizeof(T)>(reinterpret_cast<const char*>(x + i) + kAhead);
  };
  double mean = 0;
  if (!job.rms) {
    Sums<Real> sums;
    sweep<Real>(width, [&](auto lanes, auto units, int64_t i) PYACCEL_INLINED {
      using V = decltype(lanes);
      look_ahead(lanes, units, i);
      for (int u = 0; u < units; ++u) sums.add(u, V::load(x + i + u * V::width));
    });
    mean = sums.total() / double(width);
  }
  Sums<Real> squares;
  sweep<Real>(width, [&](auto lanes, auto units, int64_t i) PYACCEL_INLINED {
    using V = decltype(lanes);
    if (job.rms) look_ahead(lanes, units, i);
    const V center = V::all(Real(mean));
    for (int u = 0; u < units; ++u) {
      const V d = V::load(x + i + u * V::width) - center;
      squares.add(u, d * d);
    }
  });
  const double inverse = inverse_deviation(squares.total(), width, job.eps);
  sweep<Real>(width, [&](auto lanes, auto units, int64_t i) PYACCEL_INLINED {
    using V = decltype(lanes);
    const V center = V::all(Real(mean)), r = V::all(Real(inverse));
    V v[units], y[units];
    for (int u = 0; u < units; ++u) {
      const int64_t at = i + u * V::width;
      v[u] = V::load(x + at);
      y[u] = modulated(v[u], center, r, V::load(factor + at), V::load(offset + at));
    }
    if (sum != nullptr) store_lanes<V, units>(v, sum + i, job.stream);
    store_lanes<V, units>(y, out + i, job.stream);
  });
}

// Rows [begin, end). scratch: 4 * width numbers.
template <typename Real>
PYACCEL_HD void adaln_rows(const AdaLN& job, int64_t begin, int64_t end, Real* scratch) {
  const int64_t width = job.width;
  Real *factor = scratch, *offset = scratch + width, *gate = scratch + 2 * width, *row = scratch + 3 * width;
  int64_t scale = -1, shift = -1, gated = -1;  // the entries that these hold
  with_real_type<Real>(job.dtype, job.x, 0, [&](auto x) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(x)>>;
    T *out = static_cast<T*>(job.out), *sum = static_cast<T*>(job.sum), *held = reinterpret_cast<T*>(row);
    for (int64_t r = begin; r < end; ++r) {
      const int64_t next_scale = job.scale.entry(r), next_shift = job.shift.entry(r), next_gate = job.gate.entry(r);
      if (next_scale != scale || next_shift != shift) {
        scale = next_scale, shift = next_shift;
        prepare_modulation(job, scale, shift, factor, offset);
      }
      if (job.branch == nullptr) {
        modulate_row<Real, T>(job, x + r * width, factor, offset, nullptr, out + r * width);
        continue;
      }
      if (job.gate.data != nullptr && next_gate != gated) {
        gated = next_gate;
        update(job.gate, gated, width, gate, [](auto, auto b) { return b; });
      }
      with_real_type<Real>(job.branch_dtype, job.branch, r * width, [&](auto branch) {
        add_branch(x + r * width, branch, job.gate.data == nullptr ? nullptr : gate, width, job.stream, held);
      });
      modulate_row<Real, T>(job, held, factor, offset, sum + r * width, out + r * width);
    }
  });
}

void adaln_f32(const AdaLN& job, int64_t begin, int64_t end, float* scratch) { adaln_rows(job, begin, end, scratch); }
void adaln_f64(const AdaLN& job, int64_t begin, int64_t end, double* scratch) { adaln_rows(job, begin, end, scratch); }

}  // namespace
}  // namespace pyaccel
