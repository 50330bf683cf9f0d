// quantize on CUDA: v = x - minus in 8-bit codes with a scale for each row (../quantize.h).
//
// Bytes: x and minus are read once from memory, in 16-byte accesses, and once more from the cache; codes are written 8
// at a time. A warp does a short row and a block a long one: first the greatest |v|, then the codes. The same divisions
// as on the CPU, so the codes are the same.
#include "../quantize.h"
#include "kernels.h"
#include "vectors.h"

namespace pyaccel {
namespace {

using namespace cuda;

constexpr int V = 8;
constexpr int64_t kLongRow = 1024;  // elements: from there on a block does it

struct Launch {
  Quantization of;
  bool vectors;  // whether rows go in vectors
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

// What one of the threads that share a row sees of it.
PYACCEL_HD void look_at(float v, float* biggest, int* odd) {
  const float size = v < 0 ? -v : v;
  *biggest = size > *biggest ? size : *biggest;
  *odd |= !(v - v == 0);  // infinite or NaN
}

template <typename Code>
PYACCEL_HD void encode(float v, float scale, Code* code) {
  if (scale > 0) {
    from_float(v / scale, code);
  } else {  // zeros, or NaN
    memset(code, 0, 1);
  }
}

template <typename Code>
PYACCEL_HD void encode_row(const Launch& job, int64_t first, float scale, int lane, int lanes) {
  Code* const codes = static_cast<Code*>(job.of.codes) + first;
  const int64_t vectors = vectors_of_row(job);
  for (int64_t g = lane; g < vectors; g += lanes) {
    float v[V];
    difference_vector(job.of, first + g * V, v);
    Code some[V];
    for (int e = 0; e < V; ++e) encode(v[e], scale, some + e);
    uint32_t words[2];
    memcpy(words, some, sizeof some);
    copy_out<V>(words, codes + g * V);
  }
  for (int64_t i = vectors * V + lane; i < job.of.width; i += lanes)
    encode(difference_element(job.of, first + i), scale, codes + i);
}

template <bool Long>
__global__ void __launch_bounds__(kThreads) quantize_rows(const __grid_constant__ Launch job) {
  constexpr int lanes = Long ? kThreads : kWarp;  // threads that share a row
  const int lane = int(threadIdx.x) % lanes;
  for (int64_t row = first_turn() / lanes; row < job.of.rows; row += turn_step() / lanes) {
    const int64_t first = row * job.of.width, vectors = vectors_of_row(job);
    float biggest = 0;
    int odd = 0;
    for (int64_t g = lane; g < vectors; g += lanes) {
      float v[V];
      difference_vector(job.of, first + g * V, v);
      for (int e = 0; e < V; ++e) look_at(v[e], &biggest, &odd);
    }
    for (int64_t i = vectors * V + lane; i < job.of.width; i += lanes)
      look_at(difference_element(job.of, first + i), &biggest, &odd);
    if constexpr (Long) {
      biggest = across_block(biggest, Greatest());
      odd = across_block(odd, Greatest());
    } else {
      biggest = across_warp(biggest, Greatest());
      odd = across_warp(odd, Greatest());
    }
    const float scale = scale_of(biggest, odd == 0, job.of.code_dtype);
    if (lane == 0) job.of.scales[row] = scale;
    if (job.of.code_dtype == DType::i8) {
      encode_row<int8_t>(job, first, scale, lane, lanes);
    } else {
      encode_row<e4m3>(job, first, scale, lane, lanes);
    }
  }
}

}  // namespace

void quantize_cuda(const Quantization& of, void* stream) {
  if (of.rows == 0) return;
  Operands operands;
  operands.add(of.x, of.x_dtype);
  if (of.minus != nullptr) operands.add(of.minus, of.minus_dtype);
  operands.add(of.codes, of.code_dtype);
  if (of.rows > 1) operands.add_run(of.width);
  const Launch job{of, operands.vectors(V, V) > 0};
  const bool is_long = of.width >= kLongRow;
  launch("quantize", is_long ? quantize_rows<true> : quantize_rows<false>,
         blocks_for(of.rows * (is_long ? kThreads : kWarp)), stream, job);
}

}  // namespace pyaccel
