// quantize on CUDA: v = x - minus in 8-bit codes with a scale for each row (../quantize.h).
//
// Bytes: x and minus are read once from memory, in 16-byte accesses; codes are written 8 at a time. A row stays in the
// registers of a warp, a long one in those of a block, between its greatest |v| and its codes; one that is too long, or
// not aligned, is read again from the cache. The quotients are those of the CPU, so the codes are the same.
#include "../quantize.h"
#include "kernels.h"
#include "rows.h"

namespace pyaccel {
namespace {

using namespace cuda;

constexpr int V = 8;
constexpr int kTogether = 2;        // vectors of x and of minus that a thread asks for at a time
constexpr int64_t kLongRow = 1024;  // elements: from there on a block does it, if it is not held

struct Launch {
  Quantization of;
  bool vectors;  // whether rows go in vectors
  Sharing sharing;
};

// Elements [i, i + V) of x - minus, counted through all rows.
PYACCEL_HD void difference_vector(const Quantization& q, int64_t i, float* v) {
  const auto x = fetch<float, V>(q.x_dtype, q.x, i);
  if (q.minus != nullptr) {
    const auto minus = fetch<float, V>(q.minus_dtype, q.minus, i);
    decode(q.x_dtype, x, [&](int e, float value) { v[e] = value; });
    decode(q.minus_dtype, minus, [&](int e, float value) { v[e] -= value; });
  } else {
    decode(q.x_dtype, x, [&](int e, float value) { v[e] = value; });
  }
}

PYACCEL_HD float difference_element(const Quantization& q, int64_t i) {
  const float x = read_number<float>(q.x_dtype, q.x, i);
  return q.minus == nullptr ? x : x - read_number<float>(q.minus_dtype, q.minus, i);
}

// The number of a row's vectors: the rest goes element by element.
PYACCEL_HD int64_t vectors_of_row(const Launch& job) { return job.vectors ? job.of.width / V : 0; }

// What a thread adds to the greatest |v|: its bits, of which those of infinity and NaN are greater than all others.
PYACCEL_HD uint32_t size_of_number(float v) { return bits_of(v) & 0x7fffffffu; }

// v / scale, rounded once: a quotient by the reciprocal, mended twice, as a division does it too, but that finds the
// reciprocal each time. Numbers so small or great that a remainder would be lost are moved by a power of two.
struct Scale {
  float scale, power, inverse;

  PYACCEL_HD explicit Scale(float s) {
    power = s < 0x1p-60f ? 0x1p64f : s > 0x1p60f ? 0x1p-64f : 1;
    scale = s * power;
    inverse = 1 / scale;
  }
  PYACCEL_HD float quotient(float v) const {
    v *= power;
    float q = v * inverse;
    q = fmaf(fmaf(-scale, q, v), inverse, q);
    return fmaf(fmaf(-scale, q, v), inverse, q);
  }
};

template <typename Code>
PYACCEL_HD void encode(float v, const Scale& scale, Code* code) {
  // In a row of zeros, or with a NaN, quotients are NaN.
  from_float(scale.scale > 0 ? scale.quotient(v) : 0.0f, code);
}

template <typename Code>
PYACCEL_HD void store_codes(const float* v, const Scale& scale, Code* to) {
  Code some[V];
  for (int e = 0; e < V; ++e) encode(v[e], scale, some + e);
  uint32_t words[2];
  memcpy(words, some, sizeof some);
  copy_out<V>(words, to);
}

template <typename Code>
PYACCEL_HD void encode_row(const Launch& job, int64_t first, const Scale& scale, int lane, int lanes) {
  Code* const codes = static_cast<Code*>(job.of.codes) + first;
  const int64_t vectors = vectors_of_row(job);
  for (int64_t g = lane; g < vectors; g += lanes) {
    float v[V];
    difference_vector(job.of, first + g * V, v);
    store_codes(v, scale, codes + g * V);
  }
  for (int64_t i = vectors * V + lane; i < job.of.width; i += lanes)
    encode(difference_element(job.of, first + i), scale, codes + i);
}

// The scale of a row, which one of its threads writes. biggest: the greatest size_of_number of a thread.
__device__ inline float scale_of_row(const Launch& job, int64_t row, uint32_t biggest, const Sharing& sharing,
                                     bool writes) {
  biggest =
      sharing.lanes() > kWarp ? across_block(biggest, Greatest()) : across_warp(biggest, Greatest(), sharing.lanes());
  const float scale = scale_of(float_from_bits(biggest), biggest < 0x7f800000u, job.of.code_dtype);
  if (writes) job.of.scales[row] = scale;
  return scale;
}

// Rows that are read twice.
__global__ void __launch_bounds__(kThreads) quantize_rows(const __grid_constant__ Launch job) {
  const Sharing& sharing = job.sharing;
  each_row(job.of.rows, sharing, [&](int64_t row, int lane, bool there) {
    const int64_t width = there ? job.of.width : 0, first = row * job.of.width;
    const int64_t vectors = there ? vectors_of_row(job) : 0;
    uint32_t biggest = 0;
    for (int64_t g = lane; g < vectors; g += sharing.lanes()) {
      float v[V];
      difference_vector(job.of, first + g * V, v);
      for (int e = 0; e < V; ++e) biggest = Greatest()(biggest, size_of_number(v[e]));
    }
    for (int64_t i = vectors * V + lane; i < width; i += sharing.lanes())
      biggest = Greatest()(biggest, size_of_number(difference_element(job.of, first + i)));
    const Scale scale(scale_of_row(job, row, biggest, sharing, there && lane == 0));
    if (!there) return;
    if (job.of.code_dtype == DType::i8) {
      encode_row<int8_t>(job, first, scale, lane, sharing.lanes());
    } else {
      encode_row<e4m3>(job, first, scale, lane, sharing.lanes());
    }
  });
}

// Rows that are held. Of: the type of x and minus.
template <int Of, int Lanes, int Held>
__global__ void __launch_bounds__(kThreads, Held == 2 ? 4 : 2) quantize_held(const __grid_constant__ Launch job) {
  constexpr Sharing sharing{log_of(Lanes)};
  const int64_t pieces = job.of.width / V;
  each_whole_row<Lanes>(job.of.rows, [&](int64_t row, int lane) {
    const auto is_there = [&](int k) { return lane + k * sharing.lanes() < pieces; };
    const auto at = [&](int k) { return int64_t(k * sharing.lanes()) * V; };
    const int64_t first = row * job.of.width + int64_t(lane) * V;
    const DType x_dtype = type_of<Of>(job.of.x_dtype), minus_dtype = type_of<Of>(job.of.minus_dtype);
    const void* const from = element(x_dtype, job.of.x, first);
    const void* const less = element(minus_dtype, job.of.minus, first);
    void* const codes = element(job.of.code_dtype, job.of.codes, first);
    float v[Held][V];
    uint32_t biggest = 0;
#pragma unroll
    for (int begin = 0; begin < Held; begin += kTogether) {
      Raw<float, V, false> x[kTogether], minus[kTogether];
#pragma unroll
      for (int u = 0; u < kTogether; ++u) {
        x[u] = fetch<float, V>(x_dtype, from, at(begin + u), is_there(begin + u));
        minus[u] = fetch<float, V>(minus_dtype, less, at(begin + u), less != nullptr && is_there(begin + u));
      }
#pragma unroll
      for (int u = 0; u < kTogether; ++u) {
        const int k = begin + u;
        if (!is_there(k)) continue;
        decode(x_dtype, x[u], [&](int e, float value) { v[k][e] = value; });
        if (less != nullptr) decode(minus_dtype, minus[u], [&](int e, float value) { v[k][e] -= value; });
        for (int e = 0; e < V; ++e) biggest = Greatest()(biggest, size_of_number(v[k][e]));
      }
    }
    const Scale scale(scale_of_row(job, row, biggest, sharing, lane == 0));
#pragma unroll
    for (int k = 0; k < Held; ++k) {
      if (!is_there(k)) continue;
      if (job.of.code_dtype == DType::i8) {
        store_codes(v[k], scale, static_cast<int8_t*>(codes) + at(k));
      } else {
        store_codes(v[k], scale, static_cast<e4m3*>(codes) + at(k));
      }
    }
  });
}

using Kernel = void (*)(Launch);

template <DType Of>
Kernel holding(int64_t pieces, Sharing* sharing) {
  constexpr int of = int(Of);
  *sharing = {log_of(pieces <= kWarp * 6 ? kWarp : kThreads)};
  return pieces <= kWarp * 6      ? quantize_held<of, kWarp, 6>
         : pieces <= kThreads * 2 ? quantize_held<of, kThreads, 2>
         : pieces <= kThreads * 4 ? quantize_held<of, kThreads, 4>
                                  : nullptr;
}

}  // namespace

void quantize_cuda(const Quantization& of, void* stream) {
  if (of.rows == 0) return;
  Operands operands;
  operands.add(of.x, of.x_dtype);
  if (of.minus != nullptr) operands.add(of.minus, of.minus_dtype);
  operands.add(of.codes, of.code_dtype);
  if (of.rows > 1) operands.add_run(of.width);
  Launch job{of, operands.vectors(V, V) > 0, {}};
  Kernel kernel = nullptr;
  const bool whole = job.vectors && of.width % V == 0, alike = of.minus == nullptr || of.minus_dtype == of.x_dtype;
  if (whole && alike)
    kernel = of.x_dtype == DType::f32    ? holding<DType::f32>(of.width / V, &job.sharing)
             : of.x_dtype == DType::bf16 ? holding<DType::bf16>(of.width / V, &job.sharing)
             : of.x_dtype == DType::f16  ? holding<DType::f16>(of.width / V, &job.sharing)
                                         : nullptr;
  if (kernel == nullptr) kernel = quantize_rows, job.sharing = read_again(of.width, kLongRow);
  launch("quantize", kernel, blocks_for(of.rows * job.sharing.lanes()), stream, job);
}

}  // namespace pyaccel
