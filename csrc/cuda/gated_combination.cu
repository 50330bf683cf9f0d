// gated_combination on CUDA: out = residual + gate * sum_j w_j in_j (../gated_combination.h).
//
// Bytes: residual and every input are read once and out is written once, in accesses of 16 bytes (8 for codes); the
// gate and the scales of rows come from the cache for all but their first use. There is little to compute: it should
// run at the bandwidth of the memory. A thread has read its V elements of everything before it writes them, so that out
// may be one of the operands.
#include "../gated_combination.h"
#include "kernels.h"
#include "vectors.h"

namespace pyaccel {
namespace {

using namespace cuda;

template <typename Real>
struct Launch {
  int k;
  bool scaled;
  int64_t total, vectors;
  Divisor row;
  const void* residual;
  Broadcast gate;
  void* out;
  DType residual_dtype, out_dtype;
  const void* in[kMostColumns];
  const float* scales[kMostColumns];
  Real weights[kMostColumns];
  int8_t in_dtype[kMostColumns];

  PYACCEL_HD DType dtype(int j) const { return DType(in_dtype[j]); }
  PYACCEL_HD Real weight(int j, int64_t at_row) const {
    return scales[j] == nullptr ? weights[j] : weights[j] * Real(scales[j][at_row]);
  }
};

static_assert(sizeof(Launch<double>) <= 4096, "the parameters of a kernel");

// Of: the type of everything that is no code, where that is one and known.
template <typename Real, int V, int Of, bool Coded>
PYACCEL_HD void gate_vector(const Launch<Real>& job, int64_t i) {
  // Inputs that a thread asks for at a time, beside residual and gate; those of any type take registers for the widest.
  constexpr int in_flight = Of == kAny ? 2 : 4;
  const auto type = [](DType dtype) { return Coded && is_code(dtype) ? dtype : type_of<Of>(dtype); };
  const bool wants_residual = job.residual != nullptr;
  const Raw<Real, V, false> residual = fetch<Real, V>(type_of<Of>(job.residual_dtype), job.residual, i, wants_residual);
  Raw<Real, V, false> gate;
  if (job.gate.p != nullptr) gate = fetch<Real, V, Of>(job.gate, i);
  const int64_t row = job.scaled ? job.row.quotient(i) : 0;
  Real sum[V];
  for (int v = 0; v < V; ++v) sum[v] = 0;
  for (int first = 0; first < job.k; first += in_flight) {
    Raw<Real, V, Coded> raw[in_flight];
    Real w[in_flight];  // with the scales of the row, which are on their way beside the codes
#pragma unroll
    for (int u = 0; u < in_flight; ++u) {
      const bool wanted = first + u < job.k;
      const int j = wanted ? first + u : 0;
      raw[u] = fetch<Real, V, Coded>(type(job.dtype(j)), job.in[j], i, wanted);
      w[u] = job.weight(j, row);
    }
#pragma unroll
    for (int u = 0; u < in_flight; ++u)
      if (first + u < job.k) decode(type(job.dtype(first + u)), raw[u], [&](int v, Real x) { sum[v] += w[u] * x; });
  }
  if (job.gate.p != nullptr) decode<Of>(job.gate, gate, i, [&](int v, Real g) { sum[v] *= g; });
  if (wants_residual) decode(type_of<Of>(job.residual_dtype), residual, [&](int v, Real r) { sum[v] += r; });
  store<Real, V>(sum, type_of<Of>(job.out_dtype), job.out, i);
}

template <typename Real>
PYACCEL_HD void gate_element(const Launch<Real>& job, int64_t i) {
  const int64_t row = job.scaled ? job.row.quotient(i) : 0;
  Real sum = 0;
  for (int j = 0; j < job.k; ++j) sum += job.weight(j, row) * read_number<Real>(job.dtype(j), job.in[j], i);
  if (job.gate.p != nullptr) sum *= read_number<Real>(job.gate.dtype, job.gate.p, job.gate.at(i));
  if (job.residual != nullptr) sum += read_number<Real>(job.residual_dtype, job.residual, i);
  store_number(sum, job.out_dtype, job.out, i);
}

template <typename Real, int V, int Of = kAny, bool Coded = true>
__global__ void __launch_bounds__(kThreads, 1) gate_all(const __grid_constant__ Launch<Real> job) {
  for (int64_t i = first_turn(); i < job.vectors; i += turn_step()) gate_vector<Real, V, Of, Coded>(job, i * V);
  for (int64_t i = job.vectors * V + first_turn(); i < job.total; i += turn_step()) gate_element(job, i);
}

template <int V, DType Of>
void (*of_type(bool coded))(Launch<float>) {
  return coded ? gate_all<float, V, int(Of), true> : gate_all<float, V, int(Of), false>;
}

// The kernel made for operands of one type and codes, or null.
void (*of_one_type(const GatedCombination& all))(Launch<float>) {
  const DType of = all.out_dtype;
  bool alike = (all.residual == nullptr || all.residual_dtype == of) && (all.gate == nullptr || all.gate_dtype == of);
  bool coded = false;
  for (int j = 0; j < all.k; ++j) {
    coded |= is_code(all.in_dtype[j]);
    alike &= is_code(all.in_dtype[j]) || all.in_dtype[j] == of;
  }
  if (!alike) return nullptr;
  return of == DType::f32    ? of_type<4, DType::f32>(coded)
         : of == DType::bf16 ? of_type<8, DType::bf16>(coded)
         : of == DType::f16  ? of_type<8, DType::f16>(coded)
                             : nullptr;
}

template <typename Real>
void launch_gated(const GatedCombination& all, const Operands& operands, void* stream) {
  Launch<Real> job;
  job.k = all.k, job.total = all.total, job.row = Divisor(all.row);
  job.scaled = false;
  for (int j = 0; j < all.k; ++j) {
    job.in[j] = all.in[j], job.in_dtype[j] = int8_t(all.in_dtype[j]);
    job.scales[j] = all.scales[j], job.weights[j] = Real(all.weights[j]);
    job.scaled |= all.scales[j] != nullptr;
  }
  job.residual = all.residual, job.residual_dtype = all.residual_dtype;
  job.gate = Broadcast(all.gate, all.gate_dtype, all.inner, all.repeats);
  job.out = all.out, job.out_dtype = all.out_dtype;
  const int v = operands.lanes();
  job.vectors = operands.vectors(all.total, v);
  const int64_t blocks = blocks_for(std::max(job.vectors, all.total - job.vectors * v));
  const char* const name = "gated_combination";
  if constexpr (sizeof(Real) == sizeof(double)) {
    launch(name, gate_all<Real, 2>, blocks, stream, job);
  } else {
    void (*const fitting)(Launch<float>) = of_one_type(all);
    launch(name, fitting != nullptr ? fitting : v == 8 ? gate_all<Real, 8> : gate_all<Real, 4>, blocks, stream, job);
  }
}

}  // namespace

void gated_combination_cuda(const GatedCombination& job, void* stream) {
  if (job.total == 0) return;
  if (job.k > kMostColumns)
    throw std::invalid_argument("gated_combination: a launch has at most " + std::to_string(kMostColumns) + " inputs");
  Operands operands;
  for (int j = 0; j < job.k; ++j) {
    operands.add(job.in[j], job.in_dtype[j]);
    if (job.scales[j] != nullptr) operands.add_run(job.row);
  }
  if (job.residual != nullptr) operands.add(job.residual, job.residual_dtype);
  if (job.gate != nullptr) Broadcast(job.gate, job.gate_dtype, job.inner, job.repeats).add_to(operands);
  operands.add(job.out, job.out_dtype);
  if (operands.wide()) {
    launch_gated<double>(job, operands, stream);
  } else {
    launch_gated<float>(job, operands, stream);
  }
}

}  // namespace pyaccel
