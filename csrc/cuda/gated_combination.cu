// gated_combination on CUDA: out = residual + gate * sum_j w_j in_j (../gated_combination.h).
//
// Bytes: residual and every input are read once and out is written once, in accesses of 16 bytes (8 for codes); the
// gate and the scales of rows come from the cache for all but their first use. There is little to compute: it should
// run at the bandwidth of the memory. A thread has read its V elements of everything before it writes them, so that out
// may be one of the operands.
//
// What a cache predicts with is up to four tensors of one type, the newest and differences to older ones, which may be
// codes. For these there are kernels that know how many and of which types: every load is on its way before the first
// is needed, in half the registers. Such tensors are as large as the model's activations, times its sites: where they
// are large they will have left the cache before they are wanted again, so they are read as what comes by once, and the
// residual stream keeps its place.
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

template <typename Real, int V>
PYACCEL_HD void gate_vector(const Launch<Real>& job, int64_t i) {
  constexpr int in_flight = 2;  // inputs that a thread asks for at a time, beside residual and gate
  const bool wants_residual = job.residual != nullptr;
  const Raw<Real, V, false> residual = fetch<Real, V>(job.residual_dtype, job.residual, i, wants_residual);
  Raw<Real, V, false> gate;
  if (job.gate.p != nullptr) gate = fetch<Real, V>(job.gate, i);
  const int64_t row = job.scaled ? job.row.quotient(i) : 0;
  Real sum[V];
  for (int v = 0; v < V; ++v) sum[v] = 0;
  for (int first = 0; first < job.k; first += in_flight) {
    Raw<Real, V, true> raw[in_flight];
    Real w[in_flight];  // with the scales of the row, which are on their way beside the codes
#pragma unroll
    for (int u = 0; u < in_flight; ++u) {
      const bool wanted = first + u < job.k;
      const int j = wanted ? first + u : 0;
      raw[u] = fetch<Real, V, true>(job.dtype(j), job.in[j], i, wanted);
      w[u] = job.weight(j, row);
    }
#pragma unroll
    for (int u = 0; u < in_flight; ++u)
      if (first + u < job.k) decode(job.dtype(first + u), raw[u], [&](int v, Real x) { sum[v] += w[u] * x; });
  }
  if (job.gate.p != nullptr) decode(job.gate, gate, i, [&](int v, Real g) { sum[v] *= g; });
  if (wants_residual) decode(job.residual_dtype, residual, [&](int v, Real r) { sum[v] += r; });
  store<Real, V>(sum, job.out_dtype, job.out, i);
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

template <typename Real, int V>
__global__ void __launch_bounds__(kThreads, 1) gate_all(const __grid_constant__ Launch<Real> job) {
  for (int64_t i = first_turn(); i < job.vectors; i += turn_step()) gate_vector<Real, V>(job, i * V);
  for (int64_t i = job.vectors * V + first_turn(); i < job.total; i += turn_step()) gate_element(job, i);
}

// ---- few inputs, of known types -------------------------------------------------------------------------------------

constexpr int kFew = 4;
constexpr int kNoCodes = -2;

struct FewInputs {
  int64_t vectors;
  Divisor row;
  const void* residual;
  Broadcast gate;
  void* out;
  const void* in[kFew];
  const float* scales[kFew];
  float weights[kFew];
  bool once;  // the inputs come by once
};

// K inputs: all of type Of, or those after the first codes of type Code.
template <int V, int Of, int K, int Code>
PYACCEL_HD void gate_few_vector(const FewInputs& job, int64_t i) {
  constexpr bool coded = Code != kNoCodes;
  constexpr DType of = DType(Of);
  const auto type = [](int j) { return coded && j > 0 ? DType(Code) : of; };
  const bool wants_residual = job.residual != nullptr, wants_gate = job.gate.p != nullptr;
  Raw<float, V, coded> raw[K];
  float w[K];
  const int64_t row = coded ? job.row.quotient(i) : 0;
#pragma unroll
  for (int j = 0; j < K; ++j) {
    raw[j] = fetch_once<float, V, coded>(type(j), job.in[j], i, job.once);
    w[j] = coded && j > 0 ? job.weights[j] * job.scales[j][row] : job.weights[j];
  }
  const Raw<float, V, false> residual = fetch<float, V>(of, job.residual, i, wants_residual);
  const Raw<float, V, false> gate = fetch<float, V>(of, job.gate.p, wants_gate ? job.gate.at(i) : 0, wants_gate);
  float sum[V];
  for (int v = 0; v < V; ++v) sum[v] = 0;
#pragma unroll
  for (int j = 0; j < K; ++j) decode(type(j), raw[j], [&](int v, float x) { sum[v] += w[j] * x; });
  if (wants_gate) decode(of, gate, [&](int v, float g) { sum[v] *= g; });
  if (wants_residual) decode(of, residual, [&](int v, float r) { sum[v] += r; });
  store<float, V>(sum, of, job.out, i);
}

template <int V, int Of, int K, int Code>
__global__ void __launch_bounds__(kThreads) gate_few(const __grid_constant__ FewInputs job) {
  for (int64_t i = first_turn(); i < job.vectors; i += turn_step()) gate_few_vector<V, Of, K, Code>(job, i * V);
}

using FewKernel = void (*)(FewInputs);

template <int V, DType Of, int K>
FewKernel few_with(int code) {
  if constexpr (K > 1) {
    if (code == int(DType::i8)) return gate_few<V, int(Of), K, int(DType::i8)>;
    if (code == int(DType::e4m3)) return gate_few<V, int(Of), K, int(DType::e4m3)>;
  }
  return code == kNoCodes ? gate_few<V, int(Of), K, kNoCodes> : nullptr;
}

template <int V, DType Of>
FewKernel few_of(int k, int code) {
  return k == 1   ? few_with<V, Of, 1>(code)
         : k == 2 ? few_with<V, Of, 2>(code)
         : k == 3 ? few_with<V, Of, 3>(code)
                  : few_with<V, Of, 4>(code);
}

// The kernel for these inputs, or null. All elements must come in vectors, along which the gate is a vector too.
FewKernel few(const GatedCombination& all, const Operands& operands) {
  const DType of = all.out_dtype;
  if (all.k < 1 || all.k > kFew || operands.vectors(all.total, operands.lanes()) * operands.lanes() != all.total)
    return nullptr;
  if (all.residual != nullptr && all.residual_dtype != of) return nullptr;
  if (all.gate != nullptr && (all.gate_dtype != of || (all.repeats > 1 && all.inner == 1))) return nullptr;
  int code = kNoCodes;
  if (all.in_dtype[0] != of) return nullptr;
  for (int j = 1; j < all.k; ++j) {
    const int own = is_code(all.in_dtype[j]) ? int(all.in_dtype[j]) : kNoCodes;
    if (own == kNoCodes && all.in_dtype[j] != of) return nullptr;
    if (j > 1 && own != code) return nullptr;
    code = own;
  }
  return of == DType::f32    ? few_of<4, DType::f32>(all.k, code)
         : of == DType::bf16 ? few_of<8, DType::bf16>(all.k, code)
         : of == DType::f16  ? few_of<8, DType::f16>(all.k, code)
                             : nullptr;
}

// Bytes of all inputs from which on they are not expected to be in the cache when they are wanted again.
constexpr int64_t kLarge = 8 << 20;

void launch_few(const GatedCombination& all, const Operands& operands, FewKernel kernel, void* stream) {
  FewInputs job{};
  job.vectors = all.total / operands.lanes(), job.row = Divisor(all.row);
  job.residual = all.residual, job.out = all.out;
  job.gate = Broadcast(all.gate, all.gate_dtype, all.inner, all.repeats);
  int64_t bytes = 0;
  for (int j = 0; j < all.k; ++j) {
    job.in[j] = all.in[j], job.scales[j] = all.scales[j], job.weights[j] = float(all.weights[j]);
    bytes += all.total * size_of(all.in_dtype[j]);
  }
  job.once = bytes >= kLarge;
  launch("gated_combination", kernel, blocks_for(job.vectors), stream, job);
}

// ---- any inputs -----------------------------------------------------------------------------------------------------

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
    launch(name, v == 8 ? gate_all<Real, 8> : gate_all<Real, 4>, blocks, stream, job);
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
  if (const FewKernel kernel = few(job, operands); kernel != nullptr) {
    launch_few(job, operands, kernel, stream);
  } else if (operands.wide()) {
    launch_gated<double>(job, operands, stream);
  } else {
    launch_gated<float>(job, operands, stream);
  }
}

}  // namespace pyaccel
