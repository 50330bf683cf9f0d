// threshold on CUDA: out = clamp(x, -s, s), divided by s for dynamic thresholding (../threshold.h).
//
// Bytes: the clamp reads and writes each element once, in 16-byte accesses, in one launch. An s for each sample takes
// several launches and no memory of the size of x. The quantile's order statistic is found digit by digit, eight bits
// of the magnitudes' keys at a time (radix selection): one kernel counts the digits of those keys that begin with the
// digits known so far, another picks the digit in which the rank lies. A last pass finds the next greater key, where
// that is not the same one. So x is read twice for 16-bit numbers, four times for float32 and eight times for float64,
// once more for some samples, and once by the clamp: exact for any values, and the same each time.
#include <cmath>

#include "../threshold.h"
#include "kernels.h"
#include "vectors.h"

namespace pyaccel {
namespace {

using namespace cuda;

constexpr int kDigits = 256;
constexpr int64_t kPiece = 16384;      // elements that are worth a block of the counting
constexpr int64_t kMostPieces = 1024;  // of a sample
constexpr Key kNone = INT64_MAX;

// What is known of a sample's order statistics; in device memory.
struct Selection {
  Key first, second;  // first: the digits found so far; second: the least key above it, or kNone
  int64_t rank;       // among the keys that begin with these digits
  int is_nan;         // there is one
  int wants_second;   // it is not the same key again
  double limit;       // s
  unsigned long long counts[kDigits];
};

static_assert(kDigits == kThreads, "a thread to each digit");
static_assert(sizeof(Selection) <= kSelectionBytes, "what the caller makes room for");

__global__ void __launch_bounds__(kThreads) begin_selection(Selection* all, int64_t rank) {
  Selection& s = all[blockIdx.x];
  s.counts[threadIdx.x] = 0;
  if (threadIdx.x == 0) s.first = 0, s.second = kNone, s.rank = rank, s.is_nan = s.wants_second = 0;
}

// f(key) for a piece of one sample by one block. pieces: of each sample.
template <typename T, typename F>
__device__ void each_key(const Threshold& job, int pieces, F f) {
  const int64_t sample = blockIdx.x / pieces, piece = blockIdx.x % pieces;
  const T* const x = static_cast<const T*>(job.x) + sample * job.inner;
  const int64_t step = int64_t(pieces) * kThreads;
  for (int64_t i = piece * kThreads + threadIdx.x; i < job.inner; i += step) f(Key(key_of(x[i])));
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    count_digits(const __grid_constant__ Threshold job, Selection* all, int pieces, int shift) {
  __shared__ unsigned counts[kDigits];
  counts[threadIdx.x] = 0;
  __syncthreads();
  Selection& s = all[blockIdx.x / pieces];
  const Key known = s.first >> shift >> 8, infinity = infinity_key(job.dtype);
  bool found_nan = false;
  each_key<T>(job, pieces, [&](Key key) {
    found_nan |= key > infinity;
    if (key >> shift >> 8 == known) atomicAdd(&counts[key >> shift & (kDigits - 1)], 1u);
  });
  if (found_nan) atomicOr(&s.is_nan, 1);
  __syncthreads();
  if (counts[threadIdx.x] != 0) atomicAdd(&s.counts[threadIdx.x], (unsigned long long)(counts[threadIdx.x]));
}

// One block for each sample.
__global__ void __launch_bounds__(kThreads) pick_digit(Selection* all, int shift) {
  __shared__ int64_t up_to[kDigits];  // keys of this digit and of those below it
  Selection& s = all[blockIdx.x];
  const int digit = int(threadIdx.x);
  const int64_t count = int64_t(s.counts[digit]), rank = s.rank;
  up_to[digit] = count;
  __syncthreads();
  for (int reach = 1; reach < kDigits; reach *= 2) {
    const int64_t before = digit >= reach ? up_to[digit - reach] : 0;
    __syncthreads();
    up_to[digit] += before;
    __syncthreads();
  }
  const int64_t below = up_to[digit] - count;
  s.counts[digit] = 0;
  if (below <= rank && rank < up_to[digit]) {  // one thread: every other one has read the rank before a barrier
    s.first |= Key(digit) << shift;
    s.rank = rank - below;
    s.wants_second = rank - below + 1 >= count;
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    find_second(const __grid_constant__ Threshold job, Selection* all, int pieces) {
  Selection& s = all[blockIdx.x / pieces];
  if (!s.wants_second) return;
  const Key first = s.first;
  Key least = kNone;
  each_key<T>(job, pieces, [&](Key key) { least = key > first && key < least ? key : least; });
  least = across_block(least, Least());
  if (threadIdx.x == 0 && least != kNone)
    atomicMin(reinterpret_cast<long long*>(&s.second), static_cast<long long>(least));
}

__global__ void __launch_bounds__(kThreads)
    find_limits(Selection* all, int64_t batch, DType dtype, double limit, double weight) {
  for (int64_t sample = first_turn(); sample < batch; sample += turn_step()) {
    Selection& s = all[sample];
    const double first = value_of(dtype, s.first);
    const double second = s.wants_second && s.second != kNone ? value_of(dtype, s.second) : first;
    s.limit =
        s.is_nan ? value_of(dtype, infinity_key(dtype) + 1) : limit_of(quantile_between(first, second, weight), limit);
  }
}

struct Clamp {
  Threshold of;
  int64_t vectors;
  const Selection* limits;  // null: the plain clamp
  Divisor sample;           // by the elements of one
};

template <typename Real>
PYACCEL_HD Real limit_at(const Clamp& job, int64_t i) {
  return Real(job.limits == nullptr ? job.of.limit : job.limits[job.sample.quotient(i)].limit);
}

template <typename Real, int V>
PYACCEL_HD void clamp_vector(const Clamp& job, int64_t i) {
  const auto raw = fetch<Real, V>(job.of.dtype, job.of.x, i);
  const Real s = limit_at<Real>(job, i);
  Real v[V];
  decode(job.of.dtype, raw, [&](int e, Real x) { v[e] = clamped(x, s, job.limits != nullptr); });
  store<Real, V>(v, job.of.dtype, job.of.out, i);
}

template <typename Real, int V>
__global__ void __launch_bounds__(kThreads) clamp_all(const __grid_constant__ Clamp job) {
  for (int64_t i = first_turn(); i < job.vectors; i += turn_step()) clamp_vector<Real, V>(job, i * V);
  const int64_t total = job.of.batch * job.of.inner;
  for (int64_t i = job.vectors * V + first_turn(); i < total; i += turn_step()) {
    const Real x = read_number<Real>(job.of.dtype, job.of.x, i);
    store_number(clamped(x, limit_at<Real>(job, i), job.limits != nullptr), job.of.dtype, job.of.out, i);
  }
}

template <typename T>
void find_limits_of(const Threshold& job, Selection* all, void* stream) {
  const int pieces = int(std::min(kMostPieces, ceil_div(job.inner, kPiece)));
  const int64_t blocks = job.batch * pieces;
  if (blocks > INT32_MAX) throw std::invalid_argument("threshold: too many samples for one launch");
  const double rank = job.ratio * double(job.inner - 1), below = std::floor(rank);
  launch("threshold (begin)", begin_selection, job.batch, stream, all, int64_t(below));
  for (int shift = int(8 * sizeof(T)) - 8; shift >= 0; shift -= 8) {
    launch("threshold (count)", count_digits<T>, blocks, stream, job, all, pieces, shift);
    launch("threshold (pick)", pick_digit, job.batch, stream, all, shift);
  }
  launch("threshold (second)", find_second<T>, blocks, stream, job, all, pieces);
  launch("threshold (limits)", find_limits, blocks_for(job.batch), stream, all, job.batch, job.dtype, job.limit,
         rank - below);
}

}  // namespace

void threshold_cuda(const Threshold& job, void* scratch, void* stream) {
  const int64_t total = job.batch * job.inner;
  if (total == 0) return;
  Clamp clamp{job, 0, nullptr, Divisor(job.inner)};
  Operands operands;
  operands.add(job.x, job.dtype);
  operands.add(job.out, job.dtype);
  if (job.ratio > 0) {
    auto* const all = static_cast<Selection*>(scratch);
    const auto find = job.dtype == DType::f32    ? find_limits_of<float>
                      : job.dtype == DType::bf16 ? find_limits_of<bf16>
                      : job.dtype == DType::f16  ? find_limits_of<f16>
                                                 : find_limits_of<double>;
    find(job, all, stream);
    clamp.limits = all;
    if (job.batch > 1) operands.add_run(job.inner);
  }
  const int v = operands.lanes();
  clamp.vectors = operands.vectors(total, v);
  const int64_t blocks = blocks_for(std::max(clamp.vectors, total - clamp.vectors * v));
  launch("threshold", by_lanes(operands, clamp_all<double, 2>, clamp_all<float, 4>, clamp_all<float, 8>), blocks,
         stream, clamp);
}

}  // namespace pyaccel
