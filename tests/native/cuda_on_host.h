// As much of CUDA as the kernels in csrc/cuda use, on the CPU: so their own source runs where there is no GPU, under
// the sanitizers. A block is 256 threads of the machine, which wait for each other where the kernel says so; blocks
// come one after the other. Races are races here too, and a vector access that is not aligned is found.
#pragma once

#include <pthread.h>

#include <cstdint>
#include <cstring>
#include <functional>
#include <thread>
#include <vector>

#define __global__
#define __device__
#define __shared__ static
#define __launch_bounds__(...)
#define __grid_constant__

struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct alignas(8) uint2 {
  uint32_t x, y;
};
struct Index {
  unsigned x;
};

inline thread_local Index threadIdx, blockIdx, blockDim, gridDim;

namespace on_host {

constexpr int kThreads = 256, kWarp = 32;

class Barrier {
 public:
  explicit Barrier(unsigned count) { pthread_barrier_init(&barrier_, nullptr, count); }
  void wait() { pthread_barrier_wait(&barrier_); }

 private:
  pthread_barrier_t barrier_;
};

struct Warp {
  Barrier all{kWarp};
  alignas(16) unsigned char values[kWarp][16];
};

// The threads of one block, which live as long as the program.
class Block {
 public:
  static Block& get() {
    static Block* const block = new Block;
    return *block;
  }
  void run(int64_t blocks, const std::function<void()>& kernel) {
    blocks_ = blocks, kernel_ = &kernel;
    launch_.wait();
    launch_.wait();
  }
  void synchronize() { threads_.wait(); }
  Warp& warp() { return warps_[threadIdx.x / kWarp]; }

 private:
  Block() : warps_(kThreads / kWarp) {
    for (unsigned t = 0; t < kThreads; ++t) std::thread([this, t] { work(t); }).detach();
  }
  void work(unsigned t) {
    for (;;) {
      launch_.wait();
      threadIdx.x = t, blockDim.x = kThreads, gridDim.x = unsigned(blocks_);
      for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x) {
        (*kernel_)();
        threads_.wait();  // the next block has the same shared memory
      }
      launch_.wait();
    }
  }

  Barrier launch_{kThreads + 1}, threads_{kThreads};
  std::vector<Warp> warps_;
  int64_t blocks_ = 0;
  const std::function<void()>* kernel_ = nullptr;
};

}  // namespace on_host

inline void __syncthreads() { on_host::Block::get().synchronize(); }

template <typename T>
T __shfl_xor_sync(unsigned, T value, int distance) {
  static_assert(sizeof(T) <= 16, "a lane's room");
  auto& warp = on_host::Block::get().warp();
  const int lane = int(threadIdx.x) % on_host::kWarp;
  memcpy(warp.values[lane], &value, sizeof value);
  warp.all.wait();
  memcpy(&value, warp.values[lane ^ distance], sizeof value);
  warp.all.wait();
  return value;
}

template <typename T>
T atomicAdd(T* to, T value) {
  return __atomic_fetch_add(to, value, __ATOMIC_RELAXED);
}
inline int atomicOr(int* to, int value) { return __atomic_fetch_or(to, value, __ATOMIC_RELAXED); }
inline long long atomicMin(long long* to, long long value) {
  long long before = __atomic_load_n(to, __ATOMIC_RELAXED);
  while (value < before && !__atomic_compare_exchange_n(to, &before, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return before;
}

namespace pyaccel {
namespace cuda {

template <typename... Parameters>
void launch(const char*, void (*kernel)(Parameters...), int64_t blocks, void*, Parameters... arguments) {
  on_host::Block::get().run(blocks, [&] { kernel(arguments...); });
}

}  // namespace cuda
}  // namespace pyaccel
