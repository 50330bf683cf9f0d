// Noise as one more float32 input for each stream: drawn for a block of elements, read by the kernel from the first
// cache, overwritten by the next block's. So the kernel itself knows nothing of noise.
#pragma once

#include <algorithm>

#include "../scratch.h"
#include "linear_combination_cpu.h"

namespace pyaccel {

class NoiseInputs {
 public:
  // prefetch: the operands lie beyond the last cache.
  NoiseInputs(const Combination& job, const CpuKernel& kernel, bool prefetch)
      : job_(job),
        kernel_(kernel),
        prefetch_(prefetch),
        in_(size_t(job.k + job.streams)),
        out_(size_t(job.n)),
        in_dtype_(size_t(job.k + job.streams)),
        noise_(size_t(job.streams) * kBlock) {
    std::copy(job.in_dtype, job.in_dtype + job.k, in_dtype_.data());
    std::fill(in_dtype_.data() + job.k, in_dtype_.data() + job.k + job.streams, DType::f32);
  }

  // Elements [begin, end), all of one sample: stretch(part, sample, 0, count) for one block after the other.
  template <typename Stretch>
  void run(int64_t sample, int64_t begin, int64_t end, const Stretch& stretch) {
    Combination part = job_;
    part.k = job_.k + job_.streams;
    part.streams = 0;
    part.in = in_.data();
    part.in_dtype = in_dtype_.data();
    part.out = out_.data();
    for (int64_t i = begin; i < end;) {
      const int64_t e = i - sample * job_.inner;
      const int64_t skip = e % 4;  // a block of four is drawn as a whole; only a sample's first stretch begins inside
      const int64_t count = std::min(end - i, kBlock - skip);
      for (int j = 0; j < job_.k; ++j) in_[j] = at(job_.in[j], job_.in_dtype[j], i);
      for (int a = 0; a < job_.n; ++a) out_[a] = const_cast<char*>(at(job_.out[a], job_.out_dtype[a], i));
      for (int s = 0; s < job_.streams; ++s) in_[job_.k + s] = noise_.data() + s * kBlock + skip;
      draw(job_.seeds[sample], uint64_t(e / 4), (skip + count + 3) / 4);
      stretch(part, sample, 0, count);
      i += count;
    }
  }

 private:
  static constexpr int64_t kBlock = 1024;  // elements
  static constexpr int64_t kChunk = 64;    // blocks of four: what is drawn at a time
  static_assert(kBlock % (4 * kChunk) == 0 && kChunk % kRoundUp == 0, "a block is drawn without a remainder");

  static const char* at(const void* p, DType dtype, int64_t i) {
    return static_cast<const char*>(p) + i * size_of(dtype);
  }

  void draw(uint64_t seed, uint64_t q, int64_t blocks) {
    for (int64_t b = 0; b < blocks; b += kChunk) {
      // The memory brings the operands while the processor computes. (Prefetching beyond the end does no harm.)
      if (prefetch_) {
        for (int j = 0; j < job_.k; ++j) {
          const int64_t bytes = 4 * kChunk * size_of(job_.in_dtype[j]);
          const char* p = static_cast<const char*>(in_[j]) + b / kChunk * bytes;
          for (int64_t line = 0; line < bytes; line += 64) __builtin_prefetch(p + line, 0, 0);
        }
      }
      for (int s = 0; s < job_.streams; ++s)
        kernel_.normals(seed, job_.numbers[s], q + uint64_t(b), std::min(kChunk, blocks - b),
                        noise_.data() + s * kBlock + 4 * b);
    }
  }

  const Combination& job_;
  const CpuKernel& kernel_;
  const bool prefetch_;
  Scratch<const void*> in_;
  Scratch<void*> out_;
  Scratch<DType> in_dtype_;
  Scratch<float, 4 * kBlock> noise_;
};

}  // namespace pyaccel
