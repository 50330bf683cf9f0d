// What the kernels share: who a thread is, how a launch is made, and reductions.
//
// Every kernel is a loop in which the threads of the whole grid take turns: so any number of blocks is right, and as
// many are launched as give each thread one turn. The launches only ask the runtime to start a kernel in the caller's
// stream: nothing is allocated and nothing is waited for.
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "../numeric.h"

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#else
#include "cuda_on_host.h"  // of the tests: the same kernels, run by threads of the CPU
#endif

namespace pyaccel {
namespace cuda {

constexpr int kThreads = 256;  // of each block
constexpr int kWarp = 32;

// Of all threads of the grid.
__device__ inline int64_t first_turn() { return int64_t(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ inline int64_t turn_step() { return int64_t(gridDim.x) * blockDim.x; }

// Divides numbers from 0 to 2^62 by one that is known at the launch: i / size = floor(i m / 2^k) for m = ceil(2^k /
// size), exact while i (m size - 2^k) < 2^k (Granlund and Montgomery 1994). With k = 63 + floor(log2(size)) that is so,
// and m has 64 bits. Numbers below 2^31 take a shorter m, where size is one of them.
class Divisor {
 public:
  Divisor() = default;
  explicit Divisor(int64_t size) : size_(size) {
    if (size <= 1) return;
    int log = 0;
    while ((size >> log) > 1) ++log;
    m_ = multiplier(63 + log), shift_ = log - 1;
    const bool power = (size & (size - 1)) == 0;
    if (size <= INT32_MAX) short_shift_ = power ? log - 1 : log, short_m_ = uint32_t(multiplier(32 + short_shift_));
  }
  PYACCEL_HD int64_t size() const { return size_; }
  PYACCEL_HD int64_t quotient(int64_t i) const {
    if (size_ == 1) return i;
#if defined(__CUDA_ARCH__)
    if (short_m_ != 0 && (i >> 31) == 0) return int64_t(__umulhi(uint32_t(i), short_m_) >> short_shift_);
    return int64_t(__umul64hi(uint64_t(i), m_) >> shift_);
#else
    if (short_m_ != 0 && (i >> 31) == 0) return int64_t((uint64_t(i) * short_m_) >> 32 >> short_shift_);
    return int64_t(uint64_t((static_cast<unsigned __int128>(uint64_t(i)) * m_) >> 64) >> shift_);
#endif
  }

 private:
  uint64_t multiplier(int k) const {
    const unsigned __int128 one = static_cast<unsigned __int128>(1) << k;
    return uint64_t((one + static_cast<uint64_t>(size_) - 1) / static_cast<uint64_t>(size_));
  }

  int64_t size_ = 1;
  uint64_t m_ = 0;
  uint32_t short_m_ = 0;  // 0: there is none
  int shift_ = 0, short_shift_ = 0;
};

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Blocks that give each of so many threads a turn, as far as a grid goes.
inline int64_t blocks_for(int64_t threads) {
  return std::min<int64_t>(std::max<int64_t>(ceil_div(threads, kThreads), 1), INT32_MAX);
}

#if defined(__CUDACC__)
// Starts kernel(args...) in the stream; a failure is an error that says which kernel it was.
template <typename... Parameters>
void launch(const char* name, void (*kernel)(Parameters...), int64_t blocks, void* stream, Parameters... arguments) {
  void* pointers[] = {const_cast<void*>(static_cast<const void*>(&arguments))...};
  const cudaError_t error = cudaLaunchKernel(reinterpret_cast<const void*>(kernel), dim3(unsigned(blocks)),
                                             dim3(kThreads), pointers, 0, static_cast<cudaStream_t>(stream));
  if (error == cudaSuccess) return;
  cudaGetLastError();  // so that it is not found again by whoever asks next
  throw std::runtime_error(std::string("pyaccel: the CUDA kernel ") + name +
                           " could not be launched: " + cudaGetErrorString(error));
}
#endif

// The combination of all lanes of a warp, or of each group of so many, a power of two, in every lane.
template <typename T, typename Combine>
__device__ T across_warp(T value, Combine combine, int lanes = kWarp) {
  for (int distance = lanes / 2; distance > 0; distance /= 2)
    value = combine(value, __shfl_xor_sync(0xffffffffu, value, distance));
  return value;
}

// The combination of all threads of a block, in every thread. All of them must call it.
template <typename T, typename Combine>
__device__ T across_block(T value, Combine combine) {
  __shared__ T of_warp[kThreads / kWarp];
  value = across_warp(value, combine);
  __syncthreads();  // the last call's values have been read
  if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = value;
  __syncthreads();
  value = of_warp[0];
  for (int w = 1; w < kThreads / kWarp; ++w) value = combine(value, of_warp[w]);
  return value;
}

struct Sum {
  template <typename T>
  PYACCEL_HD T operator()(T a, T b) const {
    return a + b;
  }
};
struct Greatest {
  template <typename T>
  PYACCEL_HD T operator()(T a, T b) const {
    return a > b ? a : b;
  }
};
struct Least {
  template <typename T>
  PYACCEL_HD T operator()(T a, T b) const {
    return a < b ? a : b;
  }
};

}  // namespace cuda
}  // namespace pyaccel
