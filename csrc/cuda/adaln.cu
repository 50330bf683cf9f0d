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

constexpr int kMostHeld = 4;  // pieces of a row in the registers of a thread

struct Launch {
  AdaLN of;
  Broadcast gate, scale, shift;  // rows for elements: where there is one, at(row) is the entry
  Sharing sharing;
};

// x += gate * branch, of vector i of a row.
template <typename Real, int V, int Shared>
PYACCEL_HD void add_branch(const Launch& job, int64_t gate, int64_t i, const Real* branch, Real* x) {
  if (job.gate.p == nullptr) {
    for (int e = 0; e < V; ++e) x[e] += branch[e];
  } else {
    Real g[V];
    read_numbers<Real, V>(type_of<Shared>(job.gate.dtype), job.gate.p, gate * job.of.width + i, g);
    for (int e = 0; e < V; ++e) x[e] += g[e] * branch[e];
  }
}

// factor = weight * (1 + scale) and offset = bias * (1 + scale) + shift.
template <typename Real, int V, int Shared>
PYACCEL_HD void modulation(const Launch& job, int64_t scale, int64_t shift, int64_t i, Real* factor, Real* offset) {
  const int64_t width = job.of.width;
  Real v[V];
  for (int e = 0; e < V; ++e) factor[e] = 1, offset[e] = 0;
  if (job.scale.p != nullptr) {
    read_numbers<Real, V>(type_of<Shared>(job.scale.dtype), job.scale.p, scale * width + i, v);
    for (int e = 0; e < V; ++e) factor[e] += v[e];
  }
  if (job.of.bias.data != nullptr) {
    read_numbers<Real, V>(type_of<Shared>(job.of.bias.dtype), job.of.bias.data, i, v);
    for (int e = 0; e < V; ++e) offset[e] = v[e] * factor[e];
  }
  if (job.shift.p != nullptr) {
    read_numbers<Real, V>(type_of<Shared>(job.shift.dtype), job.shift.p, shift * width + i, v);
    for (int e = 0; e < V; ++e) offset[e] += v[e];
  }
  if (job.of.weight.data != nullptr) {
    read_numbers<Real, V>(type_of<Shared>(job.of.weight.dtype), job.of.weight.data, i, v);
    for (int e = 0; e < V; ++e) factor[e] *= v[e];
  }
}

// Of: the type of x and branch; Shared: that of what rows share. Both are known where pieces are held: as bytes, of
// which a 16-bit type has half as many, and so that few registers are wanted for what is on its way.
template <typename Real, int V, int Of, int Shared, int Held>
__device__ void modulate_row(const Launch& job, int64_t row, int lane, int64_t pieces) {
  const AdaLN& of = job.of;
  const Sharing& sharing = job.sharing;
  const DType dtype = type_of<Of>(of.dtype), branch_dtype = type_of<Of>(of.branch_dtype);
  const int64_t first = row * of.width;
  const bool branched = of.branch != nullptr;

  Raw<Real, V, false> x[Held > 0 ? Held : 1], branch[Held > 0 ? Held : 1];
  if constexpr (Held > 0) {  // everything is on its way before any of it is looked at
#pragma unroll
    for (int k = 0; k < Held; ++k) {
      const int64_t g = lane + k * sharing.lanes(), at = first + (g < pieces ? g : 0) * V;
      x[k] = fetch<Real, V>(dtype, of.x, at);
      if (branched) branch[k] = fetch<Real, V>(branch_dtype, of.branch, at);
    }
  }
  if (branched) {
    const int64_t gate = job.gate.p == nullptr ? 0 : job.gate.at(row);
    each_piece<Held>(lane, sharing, pieces, [&](int k, int64_t g) {
      const int64_t at = first + g * V;
      Real v[V], b[V];
      if constexpr (Held > 0) {
        decode(dtype, x[k], [&](int e, Real number) { v[e] = number; });
        decode(branch_dtype, branch[k], [&](int e, Real number) { b[e] = number; });
        add_branch<Real, V, Shared>(job, gate, g * V, b, v);
        x[k] = encode<Real, V>(v, dtype);
        store_raw<Real, V>(x[k], dtype, of.sum, at);
      } else {
        read_numbers<Real, V>(dtype, of.x, at, v);
        read_numbers<Real, V>(branch_dtype, of.branch, at, b);
        add_branch<Real, V, Shared>(job, gate, g * V, b, v);
        store_numbers<Real, V>(v, dtype, of.sum, at);
      }
    });
  }
  // A piece of x, or of the rounded sum.
  const auto piece = [&](int k, int64_t g, Real* v) {
    if constexpr (Held > 0) {
      decode(dtype, x[k], [&](int e, Real number) { v[e] = number; });
    } else {
      read_numbers<Real, V>(dtype, branched ? of.sum : of.x, first + g * V, v);
    }
  };

  Real mean = 0, squares = 0;
  if (!of.rms) {
    each_piece<Held>(lane, sharing, pieces, [&](int k, int64_t g) {
      Real v[V];
      piece(k, g, v);
      for (int e = 0; e < V; ++e) mean += v[e];
    });
    mean = sum_of_row(mean, sharing) / Real(of.width);
  }
  each_piece<Held>(lane, sharing, pieces, [&](int k, int64_t g) {
    Real v[V];
    piece(k, g, v);
    for (int e = 0; e < V; ++e) squares += (v[e] - mean) * (v[e] - mean);
  });
  const Real inverse = inverse_deviation(sum_of_row(squares, sharing), of.width, of.eps);

  const int64_t scale = job.scale.p == nullptr ? 0 : job.scale.at(row);
  const int64_t shift = job.shift.p == nullptr ? 0 : job.shift.at(row);
  each_piece<Held>(lane, sharing, pieces, [&](int k, int64_t g) {
    Real v[V], factor[V], offset[V];
    modulation<Real, V, Shared>(job, scale, shift, g * V, factor, offset);
    piece(k, g, v);
    for (int e = 0; e < V; ++e) v[e] = modulated(v[e], mean, inverse, factor[e], offset[e]);
    store_numbers<Real, V>(v, dtype, of.out, first + g * V);
  });
}

template <typename Real, int V, int Of = kAny, int Shared = kAny, int Held = 0>
__global__ void __launch_bounds__(kThreads, Held > 2 ? 2 : 1) modulate_rows(const __grid_constant__ Launch job) {
  each_row(job.of.rows, job.sharing, [&](int64_t row, int lane, bool there) {
    modulate_row<Real, V, Of, Shared, Held>(job, there ? row : 0, lane, there ? job.of.width / V : 0);
  });
}

using Kernel = void (*)(Launch);

template <int V, DType Of, DType Shared>
Kernel holding(const Sharing& sharing) {
  return sharing.held == 1   ? modulate_rows<float, V, int(Of), int(Shared), 1>
         : sharing.held == 2 ? modulate_rows<float, V, int(Of), int(Shared), 2>
                             : modulate_rows<float, V, int(Of), int(Shared), 4>;
}

// A kernel that holds the pieces of rows of these types, or null.
Kernel holding(const AdaLN& of, int v, const Sharing& sharing) {
  constexpr DType f32 = DType::f32, bf16 = DType::bf16, f16 = DType::f16;
  if (sharing.held == 0 || v == 1 || (of.branch != nullptr && of.branch_dtype != of.dtype)) return nullptr;
  bool alike = true, in_f32 = true;
  for (const RowOperand* operand : {&of.gate, &of.scale, &of.shift, &of.weight, &of.bias}) {
    alike &= operand->data == nullptr || operand->dtype == of.dtype;
    in_f32 &= operand->data == nullptr || operand->dtype == f32;
  }
  if (of.dtype == f32) return alike ? holding<4, f32, f32>(sharing) : nullptr;
  if (of.dtype == bf16)
    return alike ? holding<8, bf16, bf16>(sharing) : in_f32 ? holding<8, bf16, f32>(sharing) : nullptr;
  if (of.dtype == f16) return alike ? holding<8, f16, f16>(sharing) : in_f32 ? holding<8, f16, f32>(sharing) : nullptr;
  return nullptr;
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
  const Sharing sharing = sharing_of(of.width / v, kMostHeld);
  Kernel kernel = holding(of, v, sharing);
  if (kernel == nullptr) {
    kernel = operands.wide() ? (v == 1 ? modulate_rows<double, 1> : modulate_rows<double, 2>)
             : v == 1        ? modulate_rows<float, 1>
             : v == 4        ? modulate_rows<float, 4>
                             : modulate_rows<float, 8>;
  }
  const Launch job{of, entries_of(of.gate), entries_of(of.scale), entries_of(of.shift), sharing};
  launch("adaln", kernel, blocks_for(of.rows * sharing.lanes()), stream, job);
}

}  // namespace pyaccel
