// norm_rope on CUDA: RMSNorm of each head or of all heads of a token, and the rotary embedding (../norm_rope.h).
//
// Bytes: each element is read once from memory and written once, in 16-byte accesses; weights, cosines and sines, which
// heads share, come from the cache for all but their first use. A row is what one norm goes over. A thread has pairs of
// vectors of it, those whose elements are turned with each other where pairs lie in the two halves of a head; they stay
// in its registers, or are read again from the cache where the row is too long. Where each head is a row, a thread does
// the same pair of several heads of a token, whose weights, cosines and sines it reads once.
#include "../norm_rope.h"
#include "kernels.h"
#include "rows.h"

namespace pyaccel {
namespace {

using namespace cuda;

constexpr int kHeads = 3;  // that a thread does at a time, where each is a row

struct Launch {
  NormRope of;
  Broadcast cos, sin;   // tokens for elements: at(token) is the entry
  int64_t rows, width;  // of a row
  int64_t reach;        // vectors from the first of a pair to the second
  Sharing sharing;
  Divisor by_reach, by_width, by_heads, by_groups;  // groups of kHeads heads of a token
};

// The place in a row of one side of a pair, in vectors.
PYACCEL_HD int64_t place_of(const Launch& job, int64_t pair, int side) {
  const int64_t before = job.by_reach.quotient(pair) * job.reach;
  return before + pair + side * job.reach;
}

// v *= inverse * weight, of vector i of a row.
template <typename Real, int V, int Weight>
PYACCEL_HD void norm_vector(const Launch& job, int64_t i, Real inverse, Real* v) {
  for (int e = 0; e < V; ++e) v[e] *= inverse;
  if (job.of.weight.data == nullptr) return;
  Real w[V];
  read_numbers<Real, V>(type_of<Weight>(job.of.weight.dtype), job.of.weight.data, i * V, w);
  for (int e = 0; e < V; ++e) v[e] *= w[e];
}

// The cosines and sines of vector i of a row of this token.
template <typename Real, int V, int Angles>
PYACCEL_HD void read_angles(const Launch& job, int64_t token, int64_t i, Real* cos, Real* sin) {
  const int64_t width = job.of.width, at = i * V - job.by_width.quotient(i * V) * width;  // in its head
  read_numbers<Real, V>(type_of<Angles>(job.cos.dtype), job.cos.p, job.cos.at(token) * width + at, cos);
  read_numbers<Real, V>(type_of<Angles>(job.sin.dtype), job.sin.p, job.sin.at(token) * width + at, sin);
}

// Of, Weight, Angles: the types of x, of the weight, and of cos and sin, which are known where pairs are held.
template <typename Real, int V, int Of, int Weight, int Angles, int Held>
__device__ void norm_row(const Launch& job, const Sharing& sharing, int64_t row, int lane, int64_t vectors) {
  const DType dtype = type_of<Of>(job.of.dtype);
  const int64_t first = row * job.width, pairs = (vectors + 1) / 2;
  const auto is_there = [&](int64_t pair) { return place_of(job, pair, 1) < vectors; };

  Raw<Real, V, false> x[Held > 0 ? Held : 1][2];
  if constexpr (Held > 0) {  // everything is on its way before any of it is looked at
#pragma unroll
    for (int k = 0; k < Held; ++k) {
#pragma unroll
      for (int side = 0; side < 2; ++side) {
        const int64_t at = place_of(job, lane + k * sharing.lanes(), side);
        x[k][side] = fetch<Real, V>(dtype, job.of.x, first + (at < vectors ? at : 0) * V);
      }
    }
  }
  const auto piece = [&](int k, int64_t pair, int side, Real* v) {
    if constexpr (Held > 0) {
      keep_as_bytes(x[k][side]);
      decode(dtype, x[k][side], [&](int e, Real number) { v[e] = number; });
    } else {
      read_numbers<Real, V>(dtype, job.of.x, first + place_of(job, pair, side) * V, v);
    }
  };

  Real squares = 0;
  each_piece<Held>(lane, sharing, pairs, [&](int k, int64_t d) {
    const int64_t pair = lane + d;
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      if (side == 1 && !is_there(pair)) continue;
      Real v[V];
      piece(k, pair, side, v);
      for (int e = 0; e < V; ++e) squares += v[e] * v[e];
    }
  });
  const Real inverse = inverse_deviation(sum_of_row(squares, sharing), job.width, job.of.eps);

  const bool turns = job.cos.p != nullptr;
  const int64_t token = job.of.across ? row : job.by_heads.quotient(row);
  each_piece<Held>(lane, sharing, pairs, [&](int k, int64_t d) {
    const int64_t pair = lane + d;
    const auto normed = [&](int side, Real* v) {
      const int64_t at = place_of(job, pair, side);
      piece(k, pair, side, v);
      norm_vector<Real, V, Weight>(job, at, inverse, v);
      return at;
    };
    const auto put = [&](const Real* v, int64_t at) { store_numbers<Real, V>(v, dtype, job.of.out, first + at * V); };
    if (turns && (V == 1 || !job.of.neighbours)) {
      Real a[V], b[V], cos_a[V], sin_a[V], cos_b[V], sin_b[V];
      const int64_t at_a = normed(0, a), at_b = normed(1, b);
      read_angles<Real, V, Angles>(job, token, at_a, cos_a, sin_a);
      read_angles<Real, V, Angles>(job, token, at_b, cos_b, sin_b);
      for (int e = 0; e < V; ++e) turn(a[e], b[e], cos_a[e], sin_a[e], cos_b[e], sin_b[e], a + e, b + e);
      put(a, at_a), put(b, at_b);
      return;
    }
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      if (side == 1 && !is_there(pair)) return;
      Real v[V], cos[V], sin[V];
      const int64_t at = normed(side, v);
      if (turns) {
        read_angles<Real, V, Angles>(job, token, at, cos, sin);
        for (int e = 0; e + 1 < V; e += 2)
          turn(v[e], v[e + 1], cos[e], sin[e], cos[e + 1], sin[e + 1], v + e, v + e + 1);
      }
      put(v, at);
    }
  });
}

// Lanes: how many share a row, where that is known.
template <typename Real, int V, int Of = kAny, int Weight = kAny, int Angles = kAny, int Lanes = 0, int Held = 0>
__global__ void __launch_bounds__(kThreads, 1) norm_rows(const __grid_constant__ Launch job) {
  const Sharing sharing = Lanes == 0 ? job.sharing : Sharing{log_of(Lanes)};
  each_row(job.rows, sharing, [&](int64_t row, int lane, bool there) {
    norm_row<Real, V, Of, Weight, Angles, Held>(job, sharing, there ? row : 0, lane, there ? job.width / V : 0);
  });
}

// The vectors at these places of a head, of all heads from number head on that there are.
template <int V, int Of, int Weight, int Angles>
__device__ void norm_heads_of(const Launch& job, int64_t token, int64_t head, int64_t pair) {
  const DType dtype = type_of<Of>(job.of.dtype);
  const int64_t vectors = job.width / V, first = (token * job.of.heads + head) * job.width;
  const int64_t at[2] = {place_of(job, pair, 0), place_of(job, pair, 1)};
  const bool there[2] = {at[0] < vectors, at[1] < vectors};
  const int heads = int(job.of.heads - head < kHeads ? job.of.heads - head : kHeads);
  const bool turns = job.cos.p != nullptr;

  Raw<float, V, false> x[kHeads][2];
  float weight[2][V], cos[2][V], sin[2][V];
#pragma unroll
  for (int h = 0; h < kHeads; ++h)
#pragma unroll
    for (int side = 0; side < 2; ++side)
      x[h][side] = fetch<float, V>(dtype, job.of.x, first + h * job.width + at[side] * V, h < heads && there[side]);
#pragma unroll
  for (int side = 0; side < 2; ++side) {
    for (int e = 0; e < V; ++e) weight[side][e] = 1;
    if (!there[side]) continue;
    if (job.of.weight.data != nullptr)
      read_numbers<float, V>(type_of<Weight>(job.of.weight.dtype), job.of.weight.data, at[side] * V, weight[side]);
    if (turns) read_angles<float, V, Angles>(job, token, at[side], cos[side], sin[side]);
  }
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    float v[2][V], squares = 0;
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      decode(dtype, x[h][side], [&](int e, float number) { v[side][e] = number; });
      if (h < heads && there[side])
        for (int e = 0; e < V; ++e) squares += v[side][e] * v[side][e];
    }
    const float inverse = inverse_deviation(across_warp(squares, Sum(), job.sharing.lanes()), job.width, job.of.eps);
#pragma unroll
    for (int side = 0; side < 2; ++side)
      for (int e = 0; e < V; ++e) v[side][e] *= inverse * weight[side][e];
    if (turns && !job.of.neighbours) {
      for (int e = 0; e < V; ++e)
        turn(v[0][e], v[1][e], cos[0][e], sin[0][e], cos[1][e], sin[1][e], &v[0][e], &v[1][e]);
    } else if (turns) {
#pragma unroll
      for (int side = 0; side < 2; ++side)
        for (int e = 0; e < V; e += 2)
          turn(v[side][e], v[side][e + 1], cos[side][e], sin[side][e], cos[side][e + 1], sin[side][e + 1], &v[side][e],
               &v[side][e + 1]);
    }
#pragma unroll
    for (int side = 0; side < 2; ++side)
      if (h < heads && there[side])
        store_numbers<float, V>(v[side], dtype, job.of.out, first + h * job.width + at[side] * V);
  }
}

// A row of lanes does a pair each of kHeads heads of a token.
template <int V, int Of, int Weight, int Angles>
__global__ void __launch_bounds__(kThreads, 2) norm_heads(const __grid_constant__ Launch job) {
  const int64_t groups = job.by_groups.size();
  each_row(job.of.tokens * groups, job.sharing, [&](int64_t row, int lane, bool there) {
    const int64_t token = there ? job.by_groups.quotient(row) : 0;
    const int64_t head = there ? (row - token * groups) * kHeads : job.of.heads;
    norm_heads_of<V, Of, Weight, Angles>(job, token, head, lane);
  });
}

using Kernel = void (*)(Launch);

// Of rows of so many pairs of vectors: of all heads of a token, where the norm goes over them, or of one.
template <int V, DType Of, DType Weight, DType Angles>
Kernel holding(bool across, int64_t pairs, Sharing* sharing) {
  constexpr int of = int(Of), weight = int(Weight), angles = int(Angles), warp = log_of(kWarp);
  if (!across && pairs <= kWarp) {
    *sharing = read_again(pairs, kWarp);
    return norm_heads<V, of, weight, angles>;
  }
  *sharing = {pairs <= kWarp * 6 ? warp : log_of(kThreads)};
  return pairs <= kWarp * 6      ? norm_rows<float, V, of, weight, angles, kWarp, 6>
         : pairs <= kThreads * 2 ? norm_rows<float, V, of, weight, angles, kThreads, 2>
                                 : nullptr;
}

// x is of type T, in vectors of 8.
template <DType T>
Kernel holding(DType weight, DType angles, bool across, int64_t pairs, Sharing* sharing) {
  constexpr DType f32 = DType::f32;
  if (weight == T && angles == f32) return holding<8, T, T, f32>(across, pairs, sharing);
  return weight == f32 && angles == f32 ? holding<8, T, f32, f32>(across, pairs, sharing) : nullptr;
}

// A kernel that holds the pairs of rows of these types, or null.
Kernel holding(const NormRope& of, int v, int64_t pairs, Sharing* sharing) {
  constexpr DType f32 = DType::f32, bf16 = DType::bf16, f16 = DType::f16;
  if (v == 1 || (of.cos.data != nullptr && of.cos.dtype != of.sin.dtype)) return nullptr;
  const DType weight = of.weight.data == nullptr ? of.dtype : of.weight.dtype;
  const DType angles = of.cos.data == nullptr ? f32 : of.cos.dtype;
  if (of.dtype == bf16) return holding<bf16>(weight, angles, of.across, pairs, sharing);
  if (of.dtype == f16) return holding<f16>(weight, angles, of.across, pairs, sharing);
  if (of.dtype != f32 || weight != f32 || angles != f32) return nullptr;
  return holding<4, f32, f32, f32>(of.across, pairs, sharing);
}

}  // namespace

void norm_rope_cuda(const NormRope& of, void* stream) {
  if (of.tokens == 0 || of.heads == 0 || of.width == 0) return;
  const bool halves = of.cos.data != nullptr && !of.neighbours;
  Operands operands;
  operands.add(of.x, of.dtype);
  operands.add(of.out, of.dtype);
  for (const RowOperand* operand : {&of.weight, &of.cos, &of.sin})
    if (operand->data != nullptr) operands.add(operand->data, operand->dtype);
  operands.add_run(halves ? of.width / 2 : of.width);
  const int v = operands.vectors(of.width, operands.lanes()) > 0 ? operands.lanes() : 1;
  Launch job{};
  job.of = of, job.cos = entries_of(of.cos), job.sin = entries_of(of.sin);
  job.rows = of.across ? of.tokens : of.tokens * of.heads;
  job.width = of.across ? of.heads * of.width : of.width;
  job.reach = halves ? of.width / 2 / v : 1;
  job.by_reach = Divisor(job.reach), job.by_width = Divisor(of.width), job.by_heads = Divisor(of.heads);
  job.by_groups = Divisor(ceil_div(of.heads, kHeads));
  const int64_t pairs = ceil_div(job.width / v, 2);
  Kernel kernel = holding(of, v, pairs, &job.sharing);
  int64_t rows = job.rows;
  if (kernel == nullptr) {
    kernel = operands.wide() ? (v == 1 ? norm_rows<double, 1> : norm_rows<double, 2>)
             : v == 1        ? norm_rows<float, 1>
             : v == 4        ? norm_rows<float, 4>
                             : norm_rows<float, 8>;
    job.sharing = read_again(pairs, kWarp * 2);
  } else if (!of.across && pairs <= kWarp) {
    rows = of.tokens * job.by_groups.size();
  }
  launch("norm_rope", kernel, blocks_for(rows * job.sharing.lanes()), stream, job);
}

}  // namespace pyaccel
