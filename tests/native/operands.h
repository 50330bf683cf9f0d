// Random operands in memory of exactly their size, the float64 answers to compare with, and what an error may be.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "typed.h"

namespace check {

using namespace pyaccel;

inline std::mt19937_64& random_bits() {
  static std::mt19937_64 r(1);
  return r;
}
inline double normal() { return std::normal_distribution<double>()(random_bits()); }
inline int below(int n) { return int(random_bits()() % uint64_t(n)); }

constexpr DType kFloats[] = {DType::f32, DType::bf16, DType::f16, DType::f64};
inline DType any_float() { return kFloats[below(4)]; }
inline DType any_code() { return below(2) != 0 ? DType::i8 : DType::e4m3; }

// size elements from a place on that is as many elements off the strictest alignment; beyond its last byte nothing may
// be touched. New memory is full of NaN, or of codes that are none.
class Tensor {
 public:
  Tensor(DType dtype, int64_t size, int off) : dtype_(dtype), size_(size), off_(off * size_of(dtype)) {
    const size_t bytes = size_t(size * size_of(dtype) + off_);
    if (posix_memalign(reinterpret_cast<void**>(&memory_), 64, bytes == 0 ? 1 : bytes) != 0) abort();
    memset(memory_, 0xff, bytes);
  }
  Tensor(const Tensor&) = delete;
  Tensor(Tensor&& other) noexcept : dtype_(other.dtype_), size_(other.size_), off_(other.off_), memory_(other.memory_) {
    other.memory_ = nullptr;
  }
  ~Tensor() { free(memory_); }

  void* data() const { return memory_ + off_; }
  DType dtype() const { return dtype_; }
  int64_t size() const { return size_; }
  double at(int64_t i) const { return read_number<double>(dtype_, data(), i); }
  void set(int64_t i, double x) {
    if (dtype_ == DType::i8) {
      static_cast<int8_t*>(data())[i] = int8_t(x);
    } else if (dtype_ == DType::e4m3) {
      from_float(float(x), static_cast<e4m3*>(data()) + i);
    } else {
      store_number(x, dtype_, data(), i);
    }
  }
  Tensor& fill(double spread = 1) {
    for (int64_t i = 0; i < size_; ++i) set(i, is_code(dtype_) ? below(200) - 100 : spread * normal());
    return *this;
  }
  bool same_bits(const Tensor& other) const {
    return size_ == other.size_ && memcmp(data(), other.data(), size_t(size_ * size_of(dtype_))) == 0;
  }

 private:
  DType dtype_;
  int64_t size_, off_;
  unsigned char* memory_ = nullptr;
};

inline double rounding(DType d) {
  return d == DType::f64 ? 0x1p-52 : d == DType::f32 ? 0x1p-23 : d == DType::bf16 ? 0x1p-8 : 0x1p-11;
}

inline int failures = 0;

// magnitude: the sum of the absolute values of so many terms, which were added up in float32 or float64 (wide).
inline void near(const char* what, const Tensor& got, int64_t i, double expected, double magnitude, int terms,
                 bool wide) {
  const double accumulator = rounding(wide ? DType::f64 : DType::f32);
  const double smallest = got.dtype() == DType::f16 ? 0x1p-24 : 0x1p-126;
  const double allowed = magnitude * (accumulator * (terms + 4) + rounding(got.dtype())) + smallest;
  if (std::fabs(got.at(i) - expected) <= allowed) return;
  if (++failures < 20)
    printf("%s: element %lld is %.9g, expected %.9g within %.3g\n", what, static_cast<long long>(i), got.at(i),
           expected, allowed);
}

inline void holds(bool fact, const char* what) {
  if (!fact && ++failures < 20) printf("%s\n", what);
}

}  // namespace check
