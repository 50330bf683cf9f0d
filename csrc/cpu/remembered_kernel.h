// The loops of ../remembered.h. They are plain: the compiler makes good vectors of them for each instruction set.
#pragma once

#include "../remembered.h"
#include "operands.h"

namespace pyaccel {
namespace {

constexpr int kBlock = 512;  // floats that wait in the first cache

template <typename F>
PYACCEL_HD void each_typed(DType dtype, const void* p, int64_t i, F f) {
  with_type(dtype, p, i, [&](auto q) {
    if constexpr (sizeof(*q) != sizeof(double)) f(q);
  });
}

// count elements of x (and less those of minus) from element i on.
PYACCEL_HD void load_difference(const QuantizeRows& job, int64_t i, int count, float* to) {
  each_typed(job.x_dtype, job.x, i, [&](auto p) {
    for (int e = 0; e < count; ++e) to[e] = to_float(p[e]);
  });
  if (job.minus == nullptr) return;
  each_typed(job.minus_dtype, job.minus, i, [&](auto p) {
    for (int e = 0; e < count; ++e) to[e] -= to_float(p[e]);
  });
}

void quantize_rows(const QuantizeRows& job, int64_t begin, int64_t end) {
  float v[kBlock];
  for (int64_t row = begin; row < end; ++row) {
    const int64_t first = row * job.width;
    // The bits of |v| are ordered as their values, NaN above infinity above all numbers.
    uint32_t most = 0;
    for (int64_t at = 0; at < job.width; at += kBlock) {
      const int count = int(job.width - at < kBlock ? job.width - at : kBlock);
      load_difference(job, first + at, count, v);
      for (int e = 0; e < count; ++e) {
        const uint32_t bits = bits_of(v[e]) & 0x7fffffffu;
        most = bits > most ? bits : most;
      }
    }
    const float largest = float_from_bits(most);
    const bool finite = most < 0x7f800000u;
    job.scales[row] = finite ? largest / 127.0f : float_from_bits(0x7fc00000u);
    const float factor = finite && most >= 0x00800000u ? 127.0f / largest : 0.0f;
    for (int64_t at = 0; at < job.width; at += kBlock) {
      const int count = int(job.width - at < kBlock ? job.width - at : kBlock);
      load_difference(job, first + at, count, v);
      int8_t* to = job.codes + first + at;
      if (factor == 0.0f) {
        for (int e = 0; e < count; ++e) to[e] = 0;
        continue;
      }
      // Adding 1.5 * 2^23 rounds to a whole number, to nearest even, in the last bits.
      for (int e = 0; e < count; ++e) to[e] = int8_t(bits_of(v[e] * factor + 12582912.0f) - 0x4b400000u);
    }
  }
}

void gated_rows(const GatedRows& job, int64_t begin, int64_t end) {
  float sum[kBlock];
  for (int64_t row = begin; row < end; ++row) {
    for (int64_t at = 0; at < job.width; at += kBlock) {
      const int count = int(job.width - at < kBlock ? job.width - at : kBlock);
      const int64_t i = row * job.width + at;
      for (int e = 0; e < count; ++e) sum[e] = 0;
      for (int j = 0; j < job.plain; ++j) {
        const float w = job.x_weight[j];
        each_typed(job.x_dtype[j], job.x[j], i, [&](auto p) {
          for (int e = 0; e < count; ++e) sum[e] += w * to_float(p[e]);
        });
      }
      for (int j = 0; j < job.quantized; ++j) {
        const float w = job.codes_weight[j] * job.scales[j][row];
        const int8_t* codes = job.codes[j] + i;
        for (int e = 0; e < count; ++e) sum[e] += w * float(codes[e]);
      }
      if (job.gate != nullptr) {
        each_typed(job.gate_dtype, job.gate, row / job.rows_per_gate * job.width + at, [&](auto p) {
          for (int e = 0; e < count; ++e) sum[e] *= to_float(p[e]);
        });
      }
      if (job.residual != nullptr) {
        each_typed(job.residual_dtype, job.residual, i, [&](auto p) {
          for (int e = 0; e < count; ++e) sum[e] += to_float(p[e]);
        });
      }
      switch (job.out_dtype) {
        case DType::f32:
          for (int e = 0; e < count; ++e) static_cast<float*>(job.out)[i + e] = sum[e];
          break;
        case DType::bf16:
          for (int e = 0; e < count; ++e) from_float(sum[e], static_cast<bf16*>(job.out) + i + e);
          break;
        case DType::f16:
          for (int e = 0; e < count; ++e) from_float(sum[e], static_cast<f16*>(job.out) + i + e);
          break;
        case DType::f64:
          break;  // the caller takes another way
      }
    }
  }
}

// Adds sum |a - b| and sum |b| of elements [begin, end) to the two sums.
void relative_l1_sums(const RelativeL1& job, int64_t begin, int64_t end, double* sums) {
  constexpr int lanes = 32;
  float a[kBlock], b[kBlock];
  for (int64_t i = begin; i < end; i += kBlock) {
    const int count = int(end - i < kBlock ? end - i : kBlock);
    const int padded = (count + lanes - 1) / lanes * lanes;
    each_typed(job.a_dtype, job.a, i, [&](auto p) {
      for (int e = 0; e < count; ++e) a[e] = to_float(p[e]);
    });
    each_typed(job.b_dtype, job.b, i, [&](auto p) {
      for (int e = 0; e < count; ++e) b[e] = to_float(p[e]);
    });
    for (int e = count; e < padded; ++e) a[e] = b[e] = 0;
    float difference[lanes] = {}, size[lanes] = {};
    for (int e = 0; e < padded; e += lanes) {
      for (int l = 0; l < lanes; ++l) {
        difference[l] += __builtin_fabsf(a[e + l] - b[e + l]);
        size[l] += __builtin_fabsf(b[e + l]);
      }
    }
    for (int l = 0; l < lanes; ++l) {
      sums[0] += difference[l];
      sums[1] += size[l];
    }
  }
}

}  // namespace
}  // namespace pyaccel
