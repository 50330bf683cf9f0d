// How work is split over threads, and when stores pass the cache.
#pragma once

#include <algorithm>
#include <cstdint>

#if defined(_OPENMP)
#include <omp.h>
#endif
#if defined(PYACCEL_X86)
#include <immintrin.h>
#endif

#include "../numeric.h"

namespace pyaccel {

constexpr int64_t kGrain = 256;  // elements: threads get multiples of it, so that they stay aligned
constexpr int64_t kBytesPerThread = int64_t(1) << 18;  // below that, waking another thread costs more than it saves

// Beyond the last cache, writing past it saves reading what is to be overwritten. The bytes of the last cache that one
// core can fill.
int64_t streaming_threshold();

// Whether a non-temporal store may begin at element i of p.
inline bool line_aligned(const void* p, DType dtype, int64_t i) {
  return (reinterpret_cast<uintptr_t>(p) + uintptr_t(i * size_of(dtype))) % 64 == 0;
}

// To be called after the last non-temporal store of a thread.
inline void finish_stores(bool stream) {
#if defined(PYACCEL_X86)
  if (stream) _mm_sfence();
#else
  (void)stream;
#endif
}

inline int worthwhile_threads(int threads, int64_t bytes) {
  return int(std::max<int64_t>(1, std::min<int64_t>(threads, bytes / kBytesPerThread)));
}

// work(begin, end) for parts of [0, total), one for each thread, which begin at multiples of grain.
template <typename Work>
void split(int64_t total, int threads, const Work& work, int64_t grain = kGrain) {
#if defined(_OPENMP)
  if (threads > 1) {
    const int64_t grains = (total + grain - 1) / grain;
#pragma omp parallel num_threads(threads)
    {
      const int64_t count = omp_get_num_threads(), me = omp_get_thread_num();
      work(grains * me / count * grain, std::min(total, grains * (me + 1) / count * grain));
    }
    return;
  }
#endif
  (void)threads, (void)grain;
  work(0, total);
}

}  // namespace pyaccel
