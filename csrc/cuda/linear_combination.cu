// linear_combination on CUDA: out_a = sum_j c[a][j] in_j + sum_s c[a][k + s] xi_s (../linear_combination.h).
//
// Bytes: each input is read once and each output written once, in 16-byte accesses; noise is drawn in registers. With a
// few inputs there is far less to compute than to move, so the kernel should run at the bandwidth of the memory.
//
// One launch has at most 64 columns and 4 outputs. Addresses, types, coefficients and seeds travel in the kernel's
// parameters: a step of a solver costs one launch and no copy to the device. A thread does V elements of all outputs:
// it has read them in every input before it writes the first, so an output may be an input.
#include "../linear_combination.h"
#include "../philox.h"
#include "kernels.h"
#include "vectors.h"

namespace pyaccel {
namespace {

using namespace cuda;

constexpr int kMostOutputs = 4;         // of one launch
constexpr int kMostCoefficients = 256;  // of one launch, that are not in device memory
constexpr int kMostSeeds = 64;          // of one launch
constexpr int kInFlight = 4;            // inputs that a thread asks for before it needs the first

template <typename Real>
struct Launch {
  int k, streams;
  int64_t total, vectors;  // elements, and how many vectors of them are done as such
  int64_t batch, inner;
  Divisor sample;         // by inner
  int64_t sample_stride;  // between two samples' coefficients
  const Real* table;      // null: they are in c
  const void* in[kMostColumns];
  uint64_t numbers[kMostColumns];  // of the streams
  uint64_t seeds[kMostSeeds];
  void* out[kMostOutputs];
  DType out_dtype[kMostOutputs];
  int8_t in_dtype[kMostColumns];
  Real c[kMostCoefficients];

  PYACCEL_HD int64_t sample_of(int64_t i) const { return batch == 1 ? 0 : sample.quotient(i); }
  PYACCEL_HD DType dtype(int j) const { return DType(in_dtype[j]); }
  PYACCEL_HD Real coefficient(int64_t sample, int a, int column) const {
    const int64_t at = sample * sample_stride + a * (k + streams) + column;
    return table != nullptr ? table[at] : c[at];
  }
};

static_assert(sizeof(Launch<double>) <= 4096, "the parameters of a kernel");

// The normals of elements [e, e + V) of a sample, of which V divides e.
template <int V>
PYACCEL_HD void normals_at(uint64_t seed, uint64_t stream, int64_t e, float* xi) {
  if constexpr (V % 4 == 0) {
    for (int b = 0; b < V; b += 4) normals_of_block(seed, stream, uint64_t(e + b) / 4, xi + b);
  } else {
    float block[4];
    normals_of_block(seed, stream, uint64_t(e) / 4, block);
    for (int b = 0; b < 4; ++b)  // registers have no index
      for (int v = 0; v < V; ++v)
        if (e % 4 + v == b) xi[v] = block[b];
  }
}

template <typename Real, int V, int N, bool Noisy>
PYACCEL_HD void combine_vector(const Launch<Real>& job, int64_t i) {
  const int64_t sample = job.sample_of(i);
  Real sum[N][V];
  for (int a = 0; a < N; ++a)
    for (int v = 0; v < V; ++v) sum[a][v] = 0;
  for (int first = 0; first < job.k; first += kInFlight) {
    Raw<Real, V, false> raw[kInFlight];
#pragma unroll
    for (int u = 0; u < kInFlight; ++u)
      if (first + u < job.k) raw[u] = fetch<Real, V>(job.dtype(first + u), job.in[first + u], i);
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) {
      if (first + u >= job.k) continue;
      Real c[N];
      for (int a = 0; a < N; ++a) c[a] = job.coefficient(sample, a, first + u);
      decode(job.dtype(first + u), raw[u], [&](int v, Real x) {
        for (int a = 0; a < N; ++a) sum[a][v] += c[a] * x;
      });
    }
  }
  for (int s = 0; Noisy && s < job.streams; ++s) {
    float xi[V];
    normals_at<V>(job.seeds[sample], job.numbers[s], i - sample * job.inner, xi);
    for (int a = 0; a < N; ++a) {
      const Real c = job.coefficient(sample, a, job.k + s);
      for (int v = 0; v < V; ++v) sum[a][v] += c * Real(xi[v]);
    }
  }
  for (int a = 0; a < N; ++a) store<Real, V>(sum[a], job.out_dtype[a], job.out[a], i);
}

template <typename Real, int N>
PYACCEL_HD void combine_element(const Launch<Real>& job, int64_t i) {
  const int64_t sample = job.sample_of(i);
  Real sum[N];
  for (int a = 0; a < N; ++a) sum[a] = 0;
  for (int j = 0; j < job.k; ++j) {
    const Real x = read_number<Real>(job.dtype(j), job.in[j], i);
    for (int a = 0; a < N; ++a) sum[a] += job.coefficient(sample, a, j) * x;
  }
  for (int s = 0; s < job.streams; ++s) {
    float xi;
    normals_at<1>(job.seeds[sample], job.numbers[s], i - sample * job.inner, &xi);
    for (int a = 0; a < N; ++a) sum[a] += job.coefficient(sample, a, job.k + s) * Real(xi);
  }
  for (int a = 0; a < N; ++a) store_number(sum[a], job.out_dtype[a], job.out[a], i);
}

// Noisy: whether there is noise to draw; what draws it takes registers that the others use for more threads.
template <typename Real, int V, int N, bool Noisy>
__global__ void __launch_bounds__(kThreads) combine(const __grid_constant__ Launch<Real> job) {
  for (int64_t i = first_turn(); i < job.vectors; i += turn_step()) combine_vector<Real, V, N, Noisy>(job, i * V);
  for (int64_t i = job.vectors * V + first_turn(); i < job.total; i += turn_step()) combine_element<Real, N>(job, i);
}

template <typename Real, int V>
void launch_combine(const Launch<Real>& job, int outputs, void* stream) {
  const int64_t blocks = blocks_for(std::max(job.vectors, job.total - job.vectors * V));
  using Kernel = void (*)(Launch<Real>);
  static const Kernel kernels[2][kMostOutputs] = {
      {combine<Real, V, 1, false>, combine<Real, V, 2, false>, combine<Real, V, 3, false>, combine<Real, V, 4, false>},
      {combine<Real, V, 1, true>, combine<Real, V, 2, true>, combine<Real, V, 3, true>, combine<Real, V, 4, true>}};
  launch("linear_combination", kernels[job.streams > 0][outputs - 1], blocks, stream, job);
}

// Outputs [a, a + outputs) of samples [first, first + samples).
template <typename Real>
void combine_some(const Combination& all, const Real* table, int a, int outputs, int64_t first, int64_t samples,
                  void* stream) {
  Launch<Real> job;
  const int columns = all.k + all.streams;
  Operands operands;
  job.k = all.k, job.streams = all.streams;
  job.batch = samples, job.inner = all.inner, job.sample = Divisor(all.inner), job.total = samples * all.inner;
  const auto begin = [&](const void* p, DType d) {
    const void* q = static_cast<const char*>(p) + first * all.inner * size_of(d);
    operands.add(q, d);
    return const_cast<void*>(q);
  };
  for (int j = 0; j < all.k; ++j) {
    job.in[j] = begin(all.in[j], all.in_dtype[j]);
    job.in_dtype[j] = int8_t(all.in_dtype[j]);
  }
  for (int o = 0; o < outputs; ++o) {
    job.out[o] = begin(all.out[a + o], all.out_dtype[a + o]);
    job.out_dtype[o] = all.out_dtype[a + o];
  }
  for (int s = 0; s < all.streams; ++s) job.numbers[s] = all.numbers[s];
  if (all.streams > 0)
    for (int64_t s = 0; s < samples; ++s) job.seeds[s] = all.seeds[first + s];
  if (table != nullptr) {
    job.table = table + first * all.coefficient_stride + a * columns;
    job.sample_stride = all.coefficient_stride;
  } else {
    job.table = nullptr;
    job.sample_stride = all.coefficient_stride == 0 ? 0 : outputs * columns;
    const int64_t matrices = all.coefficient_stride == 0 ? 1 : samples;
    for (int64_t s = 0; s < matrices; ++s)
      for (int x = 0; x < outputs * columns; ++x)
        job.c[s * outputs * columns + x] =
            Real(all.coefficients[(first + s) * all.coefficient_stride + a * columns + x]);
  }
  if (samples > 1) operands.add_run(all.inner);
  if constexpr (sizeof(Real) == sizeof(double)) {
    job.vectors = operands.vectors(job.total, 2);
    launch_combine<Real, 2>(job, outputs, stream);
  } else if (operands.lanes() == 8) {
    job.vectors = operands.vectors(job.total, 8);
    launch_combine<Real, 8>(job, outputs, stream);
  } else {
    job.vectors = operands.vectors(job.total, 4);
    launch_combine<Real, 4>(job, outputs, stream);
  }
}

template <typename Real>
void combine_all(const Combination& all, const Real* table, void* stream) {
  for (int a = 0; a < all.n; a += kMostOutputs) {
    const int outputs = std::min(all.n - a, kMostOutputs);
    int64_t samples = all.batch;  // of one launch
    if (all.streams > 0) samples = std::min<int64_t>(samples, kMostSeeds);
    if (table == nullptr && all.coefficient_stride != 0)
      samples = std::min<int64_t>(samples, kMostCoefficients / (outputs * (all.k + all.streams)));
    for (int64_t first = 0; first < all.batch; first += samples)
      combine_some(all, table, a, outputs, first, std::min(samples, all.batch - first), stream);
  }
}

}  // namespace

void linear_combination_cuda(const Combination& job, const void* table, void* stream) {
  if (job.batch * job.inner == 0) return;
  if (job.k + job.streams > kMostColumns)
    throw std::invalid_argument("linear_combination: a launch has at most " + std::to_string(kMostColumns) +
                                " inputs and streams");
  bool wide = false;
  for (int j = 0; j < job.k; ++j) wide |= job.in_dtype[j] == DType::f64;
  for (int a = 0; a < job.n; ++a) wide |= job.out_dtype[a] == DType::f64;
  if (wide) {
    combine_all(job, static_cast<const double*>(table), stream);
  } else {
    combine_all(job, static_cast<const float*>(table), stream);
  }
}

}  // namespace pyaccel
