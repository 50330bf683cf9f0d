// adaln on CUDA: y = norm(x) * (1 + scale) + shift over rows, of x or of residual + gate * branch (../adaln.h).
//
// Bytes: x, or residual and branch, are read once from memory and each output is written once, in 16-byte accesses; the
// modulations, which rows share, come from the cache for all but their first use. A row stays in registers between the
// mean, the variance and y; one that is too long is read again from the cache, a sum with the branch where it was
// written.
#include "../adaln.h"
#include "kernels.h"
#include "rows.h"

namespace pyaccel {
namespace {

using namespace cuda;

struct Launch {
  AdaLN of;
  Broadcast gate, scale, shift;  // rows for elements: where there is one, at(row) is the entry
  Sharing sharing;
};

// The types of everything: those that are known are numbers of the program.
struct Types {
  DType x, branch, gate, scale, shift, weight, bias;
};

template <int Of, int Shared>
PYACCEL_HD Types types_of(const AdaLN& of) {
  return {type_of<Of>(of.dtype),           type_of<Of>(of.branch_dtype),    type_of<Shared>(of.gate.dtype),
          type_of<Shared>(of.scale.dtype), type_of<Shared>(of.shift.dtype), type_of<Shared>(of.weight.dtype),
          type_of<Shared>(of.bias.dtype)};
}

// What a thread works on: each from its first vector of a row on, null where it is absent.
struct Place {
  const void *x, *branch, *gate, *scale, *shift, *weight, *bias;
  void *sum, *out;

  PYACCEL_HD Place(const Launch& job, const Types& types, int64_t row, int64_t i) {
    const AdaLN& of = job.of;
    const int64_t at = row * of.width + i;
    const auto entry = [&](DType dtype, const Broadcast& rows) {
      return rows.p == nullptr ? nullptr : element(dtype, rows.p, rows.at(row) * of.width + i);
    };
    x = element(types.x, of.x, at), branch = element(types.branch, of.branch, at);
    sum = element(types.x, of.sum, at), out = element(types.x, of.out, at);
    gate = entry(types.gate, job.gate), scale = entry(types.scale, job.scale), shift = entry(types.shift, job.shift);
    weight = element(types.weight, of.weight.data, i), bias = element(types.bias, of.bias.data, i);
  }
};

// x += gate * branch, of the vector at i.
template <typename Real, int V>
PYACCEL_HD void add_branch(const Place& place, DType gate, int64_t i, const Real* branch, Real* x) {
  if (place.gate == nullptr) {
    for (int e = 0; e < V; ++e) x[e] += branch[e];
  } else {
    Real g[V];
    read_numbers<Real, V>(gate, place.gate, i, g);
    for (int e = 0; e < V; ++e) x[e] += g[e] * branch[e];
  }
}

// factor = weight * (1 + scale) and offset = bias * (1 + scale) + shift.
template <typename Real, int V>
PYACCEL_HD void modulation(const Place& place, const Types& types, int64_t i, Real* factor, Real* offset) {
  Real v[V];
  for (int e = 0; e < V; ++e) factor[e] = 1, offset[e] = 0;
  if (place.scale != nullptr) {
    read_numbers<Real, V>(types.scale, place.scale, i, v);
    for (int e = 0; e < V; ++e) factor[e] += v[e];
  }
  if (place.bias != nullptr) {
    read_numbers<Real, V>(types.bias, place.bias, i, v);
    for (int e = 0; e < V; ++e) offset[e] = v[e] * factor[e];
  }
  if (place.shift != nullptr) {
    read_numbers<Real, V>(types.shift, place.shift, i, v);
    for (int e = 0; e < V; ++e) offset[e] += v[e];
  }
  if (place.weight != nullptr) {
    read_numbers<Real, V>(types.weight, place.weight, i, v);
    for (int e = 0; e < V; ++e) factor[e] *= v[e];
  }
}

// Of: the type of x and branch; Shared: that of what rows share. Both are known where pieces are held: as bytes, of
// which a 16-bit type has half as many, and so that few registers are wanted for what is on its way. Exact: a row is
// Held pieces of every lane, and there are scale and shift (and a gate), and neither weight nor bias. Then nothing is
// asked on the way, so that the modulations of several pieces are on theirs at once.
template <typename Real, int V, int Of, int Shared, int Held, int Sure, bool Branched, bool Exact>
__device__ void modulate_row(const Launch& job, const Sharing& sharing, int64_t row, int lane, int64_t pieces) {
  const AdaLN& of = job.of;
  const Types types = types_of<Of, Shared>(of);
  const Place place(job, types, row, int64_t(lane) * V);
  const auto is_there = [&](int k) { return k < Sure || lane + k * sharing.lanes() < pieces; };
  const auto at = [&](int k) { return int64_t(k * sharing.lanes()) * V; };

  Raw<Real, V, false> x[Held > 0 ? Held : 1];
  if constexpr (Held > 0 && !Branched) {  // everything is on its way before any of it is looked at
#pragma unroll
    for (int k = 0; k < Held; ++k) x[k] = fetch<Real, V>(types.x, place.x, at(k), is_there(k));
  } else if constexpr (Held > 0) {
    constexpr int together = Held % 3 == 0 ? 3 : 2;  // pieces of both that a thread asks for at a time
#pragma unroll
    for (int begin = 0; begin < Held; begin += together) {
      Raw<Real, V, false> branch[together];
#pragma unroll
      for (int u = 0; u < together; ++u) {
        x[begin + u] = fetch<Real, V>(types.x, place.x, at(begin + u), is_there(begin + u));
        branch[u] = fetch<Real, V>(types.branch, place.branch, at(begin + u), is_there(begin + u));
      }
#pragma unroll
      for (int u = 0; u < together; ++u) {
        const int k = begin + u;
        if (!is_there(k)) continue;
        Real v[V], b[V];
        decode(types.x, x[k], [&](int e, Real number) { v[e] = number; });
        decode(types.branch, branch[u], [&](int e, Real number) { b[e] = number; });
        if constexpr (Exact) {
          decode(types.gate, fetch_constant<Real, V>(types.gate, place.gate, at(k)),
                 [&](int e, Real number) { v[e] += number * b[e]; });
        } else {
          add_branch<Real, V>(place, types.gate, at(k), b, v);
        }
        x[k] = encode<Real, V>(v, types.x);
        store_raw<Real, V>(x[k], types.x, place.sum, at(k));
      }
    }
  } else if constexpr (Branched) {
    each_piece<Held, Sure>(lane, sharing, pieces, [&](int, int64_t d) {
      Real v[V], b[V];
      read_numbers<Real, V>(types.x, place.x, d * V, v);
      read_numbers<Real, V>(types.branch, place.branch, d * V, b);
      add_branch<Real, V>(place, types.gate, d * V, b, v);
      store_numbers<Real, V>(v, types.x, place.sum, d * V);
    });
  }
  // A piece of x, or of the rounded sum.
  const auto piece = [&](int k, int64_t d, Real* v) {
    if constexpr (Held > 0) {
      keep_as_bytes(x[k]);
      decode(types.x, x[k], [&](int e, Real number) { v[e] = number; });
    } else {
      read_numbers<Real, V>(types.x, Branched ? place.sum : place.x, d * V, v);
    }
  };

  Real mean = 0, squares = 0;
  if (!of.rms) {
    each_piece<Held, Sure>(lane, sharing, pieces, [&](int k, int64_t d) {
      Real v[V];
      piece(k, d, v);
      for (int e = 0; e < V; ++e) mean += v[e];
    });
    mean = sum_of_row(mean, sharing) / Real(of.width);
  }
  each_piece<Held, Sure>(lane, sharing, pieces, [&](int k, int64_t d) {
    Real v[V];
    piece(k, d, v);
    for (int e = 0; e < V; ++e) squares += (v[e] - mean) * (v[e] - mean);
  });
  const Real inverse = inverse_deviation(sum_of_row(squares, sharing), of.width, of.eps);

  if constexpr (Exact) {
#pragma unroll
    for (int k = 0; k < Held; ++k) {
      const Raw<Real, V, false> scale = fetch_constant<Real, V>(types.scale, place.scale, at(k));
      const Raw<Real, V, false> shift = fetch_constant<Real, V>(types.shift, place.shift, at(k));
      Real v[V], factor[V];
      piece(k, 0, v);
      decode(types.scale, scale, [&](int e, Real number) { factor[e] = 1 + number; });
      decode(types.shift, shift, [&](int e, Real number) { v[e] = modulated(v[e], mean, inverse, factor[e], number); });
      store<Real, V>(v, types.x, place.out, at(k));
    }
  } else {
    each_piece<Held, Sure>(lane, sharing, pieces, [&](int k, int64_t d) {
      Real v[V], factor[V], offset[V];
      modulation<Real, V>(place, types, d * V, factor, offset);
      piece(k, d, v);
      for (int e = 0; e < V; ++e) v[e] = modulated(v[e], mean, inverse, factor[e], offset[e]);
      store_numbers<Real, V>(v, types.x, place.out, d * V);
    });
  }
}

// How many pieces of a lane are there in every row that goes to this kernel; see holding().
template <int Lanes, int Held>
constexpr int kSure = Lanes == kThreads ? 1
                      : Held == 3       ? 0
                                        : Held / 2;

// Blocks at a time on a multiprocessor: as many as there are registers for without spilling any.
template <int V, bool Branched, int Shared, int Lanes, int Held, bool Exact>
constexpr int kBlocks = Held == 0                                                        ? 1
                        : Lanes == kThreads                                              ? (V == 8 && Branched ? 3 : 4)
                        : V == 4 && !Branched                                            ? 3
                        : Held > 6                                                       ? 2
                        : Held > 3 && (Branched || (Exact && Shared == int(DType::f32))) ? 2
                                                                                         : 3;

// Lanes: how many share a row, where that is known.
template <typename Real, int V, bool Branched, int Of = kAny, int Shared = kAny, int Lanes = 0, int Held = 0,
          bool Exact = false>
__global__ void __launch_bounds__(kThreads, kBlocks<V, Branched, Shared, Lanes, Held, Exact>)
    modulate_rows(const __grid_constant__ Launch job) {
  if constexpr (Lanes == 0) {
    each_row(job.of.rows, job.sharing, [&](int64_t row, int lane, bool there) {
      const int64_t pieces = there ? job.of.width / V : 0;
      modulate_row<Real, V, Of, Shared, 0, 0, Branched, false>(job, job.sharing, there ? row : 0, lane, pieces);
    });
  } else {
    constexpr int sure = Exact ? Held : kSure<Lanes, Held>;
    each_whole_row<Lanes>(job.of.rows, [&](int64_t row, int lane) {
      modulate_row<Real, V, Of, Shared, Held, sure, Branched, Exact>(job, {log_of(Lanes)}, row, lane, job.of.width / V);
    });
  }
}

struct Choice {
  void (*kernel)(Launch);
  Sharing sharing;
};

template <int V, bool Branched, DType Of, DType Shared, int Lanes, int Held, bool Exact = false>
Choice holding() {
  return {modulate_rows<float, V, Branched, int(Of), int(Shared), Lanes, Held, Exact>, {log_of(Lanes)}};
}

// For the widths of models, where they are Exact.
template <int V, bool Branched, DType Of, DType Shared>
Choice holding_exactly(int64_t pieces, int64_t rows) {
  if (pieces == kWarp * 3) return holding<V, Branched, Of, Shared, kWarp, 3, true>();
  if (pieces == kWarp * 6) return holding<V, Branched, Of, Shared, kWarp, 6, true>();
  if (pieces == kWarp * 12) return holding<V, Branched, Of, Shared, kWarp, 12, true>();
  if constexpr (V == 8) {
    if constexpr (!Branched || Of != DType::f16) {  // which would spill
      if (pieces == kWarp / 2 * 9 && rows % 2 == 0) return holding<V, Branched, Of, Shared, kWarp / 2, 9, true>();
    }
    if (pieces == kWarp * 4) return holding<V, Branched, Of, Shared, kWarp, 4, true>();
    if (pieces == kWarp * 8) return holding<V, Branched, Of, Shared, kWarp, 8, true>();
  } else {
    if (pieces == kWarp * 9) return holding<V, Branched, Of, Shared, kWarp, 9, true>();
    if (pieces == kThreads * 3) return holding<V, Branched, Of, Shared, kThreads, 3, true>();
  }
  return {nullptr, {}};
}

// 12 pieces a lane are 6 KB a warp: 3072 numbers of 16 bits. kSure relies on these limits.
template <int V, bool Branched, DType Of, DType Shared>
Choice holding(int64_t pieces, int64_t rows, bool usual) {
  const Choice exact = usual ? holding_exactly<V, Branched, Of, Shared>(pieces, rows) : Choice{nullptr, {}};
  if (exact.kernel != nullptr) return exact;
  if (pieces <= kWarp * 3) return holding<V, Branched, Of, Shared, kWarp, 3>();
  if (pieces <= kWarp * 6) return holding<V, Branched, Of, Shared, kWarp, 6>();
  if (pieces <= kWarp * 12) return holding<V, Branched, Of, Shared, kWarp, 12>();
  if (pieces <= kThreads * 4) return holding<V, Branched, Of, Shared, kThreads, 4>();
  return {nullptr, {}};
}

template <int V, DType Of, DType Shared>
Choice holding(const AdaLN& of) {
  const bool modulated = of.scale.data != nullptr && of.shift.data != nullptr;
  const bool usual = modulated && of.weight.data == nullptr && of.bias.data == nullptr;
  if (of.branch == nullptr) return holding<V, false, Of, Shared>(of.width / V, of.rows, usual);
  return holding<V, true, Of, Shared>(of.width / V, of.rows, usual && of.gate.data != nullptr);
}

template <bool Branched>
Choice reading_again(const Operands& operands, int v) {
  return {operands.wide() ? (v == 1 ? modulate_rows<double, 1, Branched> : modulate_rows<double, 2, Branched>)
          : v == 1        ? modulate_rows<float, 1, Branched>
          : v == 4        ? modulate_rows<float, 4, Branched>
                          : modulate_rows<float, 8, Branched>,
          {}};
}

// A kernel that holds the pieces of rows of these types, or null.
Choice holding(const AdaLN& of, int v) {
  constexpr DType f32 = DType::f32, bf16 = DType::bf16, f16 = DType::f16;
  const Choice none{nullptr, {}};
  if (v == 1 || (of.branch != nullptr && of.branch_dtype != of.dtype)) return none;
  bool alike = true, in_f32 = true;
  for (const RowOperand* operand : {&of.gate, &of.scale, &of.shift, &of.weight, &of.bias}) {
    alike &= operand->data == nullptr || operand->dtype == of.dtype;
    in_f32 &= operand->data == nullptr || operand->dtype == f32;
  }
  if (of.dtype == f32 && alike) return holding<4, f32, f32>(of);
  if (of.dtype == bf16 && alike) return holding<8, bf16, bf16>(of);
  if (of.dtype == bf16 && in_f32) return holding<8, bf16, f32>(of);
  if (of.dtype == f16 && alike) return holding<8, f16, f16>(of);
  return none;
}

}  // namespace

void adaln_cuda(const AdaLN& of, void* stream) {
  if (of.rows == 0 || of.width == 0) return;
  Operands operands;
  operands.add(of.x, of.dtype);
  operands.add(of.out, of.dtype);
  if (of.branch != nullptr) operands.add(of.branch, of.branch_dtype), operands.add(of.sum, of.dtype);
  for (const RowOperand* operand : {&of.gate, &of.scale, &of.shift, &of.weight, &of.bias})
    if (operand->data != nullptr) operands.add(operand->data, operand->dtype);
  operands.add_run(of.width);
  const int v = operands.vectors(of.width, operands.lanes()) > 0 ? operands.lanes() : 1;
  Choice choice = holding(of, v);
  if (choice.kernel == nullptr) {
    choice = of.branch != nullptr ? reading_again<true>(operands, v) : reading_again<false>(operands, v);
    choice.sharing = read_again(of.width / v, kWarp * 4);
  }
  const Launch job{of, entries_of(of.gate), entries_of(of.scale), entries_of(of.shift), choice.sharing};
  launch("adaln", choice.kernel, blocks_for(of.rows * choice.sharing.lanes()), stream, job);
}

}  // namespace pyaccel
