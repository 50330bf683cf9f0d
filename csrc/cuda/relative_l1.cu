// relative_l1 on CUDA: sum |a - b| / sum |b| (../relative_l1.h).
//
// Bytes: each of the two is read once, in 16-byte accesses. No atomic additions: the blocks write their sums, and a
// second kernel of one block adds these up in their order. As the number of blocks depends on the size alone, the
// result is the same each time and on every GPU.
#include "../relative_l1.h"
#include "kernels.h"
#include "vectors.h"

namespace pyaccel {
namespace {

using namespace cuda;

constexpr int kInFlight = 2;       // vectors of each of the two that a thread asks for at a time
constexpr int kFewAdditions = 64;  // to a lane in float32, before its sum goes on in float64

struct Launch {
  RelativeL1 of;
  int64_t vectors;
};

template <typename Real, int V>
struct Sums {
  Real difference[V], size[V];
  double total[2] = {0, 0};

  PYACCEL_HD Sums() { clear(); }
  PYACCEL_HD void clear() {
    for (int v = 0; v < V; ++v) difference[v] = size[v] = 0;
  }
  PYACCEL_HD void add(int v, Real a, Real b) {
    const Real d = a - b;
    difference[v] += d < 0 ? -d : d;
    size[v] += b < 0 ? -b : b;
  }
  PYACCEL_HD void carry() {
    for (int v = 0; v < V; ++v) total[0] += double(difference[v]), total[1] += double(size[v]);
    clear();
  }
};

template <typename Real, int V>
PYACCEL_HD void add_vectors(const Launch& job, int64_t i, int64_t step, Sums<Real, V>& sums) {
  Raw<Real, V, false> a[kInFlight], b[kInFlight];
#pragma unroll
  for (int u = 0; u < kInFlight; ++u) {
    if (i + u * step >= job.vectors) continue;
    a[u] = fetch<Real, V>(job.of.a_dtype, job.of.a, (i + u * step) * V);
    b[u] = fetch<Real, V>(job.of.b_dtype, job.of.b, (i + u * step) * V);
  }
#pragma unroll
  for (int u = 0; u < kInFlight; ++u) {
    if (i + u * step >= job.vectors) continue;
    Real x[V];
    decode(job.of.a_dtype, a[u], [&](int v, Real value) { x[v] = value; });
    decode(job.of.b_dtype, b[u], [&](int v, Real y) { sums.add(v, x[v], y); });
  }
}

template <typename Real, int V>
__global__ void __launch_bounds__(kThreads) add_up(const __grid_constant__ Launch job, double* partial) {
  Sums<Real, V> sums;
  int additions = 0;
  for (int64_t i = first_turn(); i < job.vectors; i += kInFlight * turn_step()) {
    add_vectors<Real, V>(job, i, turn_step(), sums);
    if ((additions += kInFlight) % kFewAdditions == 0) sums.carry();
  }
  sums.carry();
  for (int64_t i = job.vectors * V + first_turn(); i < job.of.total; i += turn_step()) {
    sums.add(0, read_number<Real>(job.of.a_dtype, job.of.a, i), read_number<Real>(job.of.b_dtype, job.of.b, i));
    if (++additions % kFewAdditions == 0) sums.carry();
  }
  sums.carry();
  const double difference = across_block(sums.total[0], Sum());
  const double size = across_block(sums.total[1], Sum());
  if (threadIdx.x == 0) partial[2 * blockIdx.x] = difference, partial[2 * blockIdx.x + 1] = size;
}

__global__ void __launch_bounds__(kThreads) divide_sums(const double* partial, int64_t blocks, void* out, DType dtype) {
  double difference = 0, size = 0;
  for (int64_t i = threadIdx.x; i < blocks; i += kThreads) difference += partial[2 * i], size += partial[2 * i + 1];
  difference = across_block(difference, Sum());
  size = across_block(size, Sum());
  if (threadIdx.x != 0) return;
  store_number(difference == 0 && size == 0 ? 0 : difference / size, dtype, out, 0);
}

}  // namespace

void relative_l1_partial_cuda(const RelativeL1& of, double* partial, void* stream) {
  Operands operands;
  operands.add(of.a, of.a_dtype);
  operands.add(of.b, of.b_dtype);
  const Launch job{of, operands.vectors(of.total, operands.lanes())};
  launch("relative_l1", by_lanes(operands, add_up<double, 2>, add_up<float, 4>, add_up<float, 8>),
         relative_l1_blocks(of.total), stream, job, partial);
}

void relative_l1_quotient_cuda(const double* partial, int64_t blocks, void* out, DType dtype, void* stream) {
  launch("relative_l1 (quotient)", divide_sums, 1, stream, partial, blocks, out, dtype);
}

}  // namespace pyaccel
