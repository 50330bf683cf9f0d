// Chooses the instruction set, splits the work over threads, decides on non-temporal stores.
#include "linear_combination_cpu.h"
#include "noise_inputs.h"

#if defined(_OPENMP)
#include <omp.h>
#endif
#if defined(PYACCEL_X86)
#include <immintrin.h>
#endif

#include <algorithm>
#include <cstdio>

namespace pyaccel {
namespace {

constexpr int64_t kGrain = 256;  // elements: threads get multiples of it, so that they stay aligned
constexpr int64_t kBytesPerThread = int64_t(1) << 18;  // below that, waking another thread costs more than it saves

// Bytes of the last cache that one core can fill. The C library counts those of a whole socket where it has several.
int64_t last_cache() {
  int64_t kilobytes = 0;
#if defined(__linux__)
  if (FILE* file = fopen("/sys/devices/system/cpu/cpu0/cache/index3/size", "r")) {
    long found = 0;
    char unit = 0;
    if (fscanf(file, "%ld%c", &found, &unit) == 2) kilobytes = unit == 'M' ? found * 1024 : unit == 'K' ? found : 0;
    fclose(file);
  }
#endif
  return kilobytes > 0 ? kilobytes * 1024 : int64_t(32) << 20;
}

// Beyond the last cache, writing past it saves reading what is to be overwritten.
int64_t streaming_threshold() {
  static const int64_t bytes = last_cache();
  return bytes;
}

bool outputs_aligned(const Combination& job, int64_t element) {
  for (int a = 0; a < job.n; ++a) {
    const auto address = reinterpret_cast<uintptr_t>(job.out[a]) + uintptr_t(element * size_of(job.out_dtype[a]));
    if (address % 64 != 0) return false;
  }
  return true;
}

}  // namespace

const CpuKernel* const* available_kernels() {
  static const CpuKernel* kernels[5] = {};
  static const bool once = [] {
    const CpuKernel** next = kernels;
#if defined(PYACCEL_X86)
    __builtin_cpu_init();
    const bool fma = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    const bool wide = fma && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    if (wide && __builtin_cpu_supports("avx512bf16")) *next++ = &kernel_avx512bf16;
    if (wide) *next++ = &kernel_avx512;
    if (fma) *next++ = &kernel_avx2;
#endif
    *next = &kernel_baseline;
    return true;
  }();
  (void)once;
  return kernels;
}

void linear_combination_cpu(const Combination& job, const float* c32, const CpuKernel& kernel, int threads) {
  const int64_t total = job.batch * job.inner;
  if (total == 0) return;
  int64_t bytes = 0;
  bool f64 = false;
  for (int j = 0; j < job.k; ++j) bytes += total * size_of(job.in_dtype[j]), f64 |= job.in_dtype[j] == DType::f64;
  for (int a = 0; a < job.n; ++a) bytes += total * size_of(job.out_dtype[a]), f64 |= job.out_dtype[a] == DType::f64;
  const bool stream = bytes > streaming_threshold();

  const auto stretch = [&](const Combination& part, int64_t sample, int64_t begin, int64_t end) {
    const int64_t c = sample * job.coefficient_stride;
    if (f64) {
      kernel.f64(part, job.coefficients + c, begin, end);
    } else {
      kernel.f32(part, c32 + c, begin, end, stream && outputs_aligned(part, begin));
    }
  };
  const auto each_sample = [&](int64_t begin, int64_t end, const auto& f) {
    for (int64_t i = begin; i < end;) {
      const int64_t sample = i / job.inner;
      const int64_t stop = std::min(end, (sample + 1) * job.inner);
      f(sample, i, stop);
      i = stop;
    }
  };
  const auto work = [&](int64_t begin, int64_t end) {
    if (job.streams == 0) {
      each_sample(begin, end, [&](int64_t sample, int64_t i, int64_t stop) { stretch(job, sample, i, stop); });
    } else {
      NoiseInputs noise(job, kernel, stream);
      each_sample(begin, end, [&](int64_t sample, int64_t i, int64_t stop) { noise.run(sample, i, stop, stretch); });
    }
#if defined(PYACCEL_X86)
    if (stream) _mm_sfence();
#endif
  };

  threads = int(std::min<int64_t>(threads, (bytes + total * job.streams * kBytesOfNormal) / kBytesPerThread));
#if defined(_OPENMP)
  if (threads > 1) {
    const int64_t grains = (total + kGrain - 1) / kGrain;
#pragma omp parallel num_threads(threads)
    {
      const int64_t count = omp_get_num_threads(), me = omp_get_thread_num();
      work(grains * me / count * kGrain, std::min(total, grains * (me + 1) / count * kGrain));
    }
    return;
  }
#endif
  work(0, total);
}

}  // namespace pyaccel
