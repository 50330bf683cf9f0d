// ema_update on CUDA: e = e + (1 - beta) (theta - e) for many tensors and several rates at once (../ema.h).
//
// Bytes: each parameter is read once for all rates of a launch, each average is read and written once, in 16-byte
// accesses where the addresses allow. The addresses of all tensors stand in the parameters of the kernel, which have
// room for some hundred or thousand of them: a model takes one launch, or a few. A block finds the tensor whose part it
// does by bisection.
#include "../ema.h"
#include "kernels.h"
#include "vectors.h"

namespace pyaccel {
namespace {

using namespace cuda;

// A kernel may have 4 KB of parameters, and 32 KB with every driver that goes with CUDA 13.
#if defined(CUDART_VERSION) && CUDART_VERSION < 13000
constexpr int kMostTensors = 120;
#elif defined(__CUDACC__)
constexpr int kMostTensors = 1000;
#else
constexpr int kMostTensors = 7;  // on the host, so that the checks take several launches
#endif
constexpr int kMostAddresses = 2 * kMostTensors;
constexpr int kMostRates = 6;    // of one launch
constexpr int64_t kPart = 4096;  // elements of a tensor that a block does
constexpr int kInFlight = 2;     // vectors that a thread asks for at a time

static_assert(kMostAddresses >= kMostRates + 1, "one tensor with all of its averages must fit");

struct Launch {
  int tensors, rates;
  int64_t blocks;
  double betas[kMostRates];
  int64_t sizes[kMostTensors];
  void* addresses[kMostAddresses];  // of a tensor that of the parameter, then those of its averages
  int32_t begins[kMostTensors];     // the number of its first block
  uint32_t kinds[kMostTensors];     // 1 where it goes in vectors, then the types of the addresses, two bits each

  PYACCEL_HD static DType dtype(uint32_t kinds, int place) { return DType(kinds >> (2 * place + 1) & 3u); }

  PYACCEL_HD void* address(int tensor, int place) const { return addresses[tensor * (rates + 1) + place]; }

  PYACCEL_HD int tensor_of(int64_t block) const {
    int low = 0, high = tensors;
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      if (begins[middle] <= block) {
        low = middle;
      } else {
        high = middle;
      }
    }
    return low;
  }
};

template <typename Real, int V>
PYACCEL_HD void update_vectors(const Launch& job, int t, uint32_t kinds, int64_t i, int64_t step, int64_t end) {
  Raw<Real, V, false> theta[kInFlight];
#pragma unroll
  for (int u = 0; u < kInFlight; ++u)
    if (i + u * step < end) theta[u] = fetch<Real, V>(Launch::dtype(kinds, 0), job.address(t, 0), i + u * step);
  for (int r = 0; r < job.rates; ++r) {
    const auto approach = Approach<Real>::with(job.betas[r]);
    const DType dtype = Launch::dtype(kinds, r + 1);
    void* const average = job.address(t, r + 1);
    Raw<Real, V, false> e[kInFlight];
#pragma unroll
    for (int u = 0; u < kInFlight; ++u)
      if (i + u * step < end) e[u] = fetch<Real, V>(dtype, average, i + u * step);
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) {
      if (i + u * step >= end) continue;
      Real from[V], value[V];
      decode(dtype, e[u], [&](int v, Real x) { from[v] = x; });
      decode(Launch::dtype(kinds, 0), theta[u], [&](int v, Real to) { value[v] = approach(from[v], to); });
      store<Real, V>(value, dtype, average, i + u * step);
    }
  }
}

template <typename Real>
PYACCEL_HD void update_element(const Launch& job, int t, uint32_t kinds, int64_t i) {
  const Real theta = read_number<Real>(Launch::dtype(kinds, 0), job.address(t, 0), i);
  for (int r = 0; r < job.rates; ++r) {
    const DType dtype = Launch::dtype(kinds, r + 1);
    void* const average = job.address(t, r + 1);
    const Real e = read_number<Real>(dtype, average, i);
    store_number(Approach<Real>::with(job.betas[r])(e, theta), dtype, average, i);
  }
}

template <typename Real, int V>
__global__ void __launch_bounds__(kThreads) update_all(const __grid_constant__ Launch job) {
  for (int64_t block = blockIdx.x; block < job.blocks; block += gridDim.x) {
    const int t = job.tensor_of(block);
    const uint32_t kinds = job.kinds[t];
    const int64_t begin = (block - job.begins[t]) * kPart, left = job.sizes[t] - begin;
    const int64_t count = left < kPart ? left : kPart, vectors = (kinds & 1u) != 0 ? count / V : 0;
    for (int64_t v = threadIdx.x; v < vectors; v += kInFlight * kThreads)
      update_vectors<Real, V>(job, t, kinds, begin + v * V, int64_t(kThreads) * V, begin + vectors * V);
    for (int64_t i = vectors * V + threadIdx.x; i < count; i += kThreads)
      update_element<Real>(job, t, kinds, begin + i);
  }
}

// Tensors on their way to the GPU, all in float64 or all in float32.
class Batch {
 public:
  Batch(const EmaUpdate& of, int first_rate, void* stream) : of_(of), first_rate_(first_rate), stream_(stream) {
    job_.rates = int(std::min<int64_t>(of.rates - first_rate, kMostRates));
    for (int r = 0; r < job_.rates; ++r) job_.betas[r] = of.betas[first_rate + r];
  }

  void add(int64_t t) {
    if (job_.tensors == kMostTensors || (job_.tensors + 1) * (job_.rates + 1) > kMostAddresses) flush();
    const int now = job_.tensors++;
    job_.kinds[now] = 0;
    const auto put = [&](int place, void* p, DType dtype) {
      operands_.add(p, dtype);
      job_.addresses[now * (job_.rates + 1) + place] = p;
      job_.kinds[now] |= uint32_t(dtype) << (2 * place + 1);
    };
    put(0, const_cast<void*>(of_.params[t]), of_.param_dtype[t]);
    for (int r = 0; r < job_.rates; ++r) {
      const int64_t which = (first_rate_ + r) * of_.count + t;
      put(r + 1, of_.averages[which], of_.average_dtype[which]);
    }
    job_.sizes[now] = of_.sizes[t];
    job_.begins[now] = int32_t(job_.blocks);
    job_.blocks += ceil_div(of_.sizes[t], kPart);
  }

  void flush() {
    if (job_.tensors == 0) return;
    const int v = operands_.lanes();
    for (int t = 0; t < job_.tensors; ++t) {
      Operands own;
      for (int place = 0; place <= job_.rates; ++place)
        own.add(job_.addresses[t * (job_.rates + 1) + place], Launch::dtype(job_.kinds[t], place));
      job_.kinds[t] |= own.vectors(v, v) != 0 ? 1u : 0u;
    }
    launch("ema_update", by_lanes(operands_, update_all<double, 2>, update_all<float, 4>, update_all<float, 8>),
           std::min<int64_t>(job_.blocks, INT32_MAX), stream_, job_);
    job_.tensors = 0, job_.blocks = 0;
    operands_ = Operands();
  }

 private:
  const EmaUpdate& of_;
  int first_rate_;
  void* stream_;
  Launch job_{};
  Operands operands_;
};

}  // namespace

void ema_update_cuda(const EmaUpdate& job, void* stream) {
  for (int first = 0; first < job.rates; first += kMostRates) {
    for (const bool wide : {false, true}) {
      Batch batch(job, first, stream);
      for (int64_t t = 0; t < job.count; ++t)
        if (job.sizes[t] > 0 && job.wide(t) == wide) batch.add(t);
      batch.flush();
    }
  }
}

}  // namespace pyaccel
