// Eight floats as a plain array: what any C++17 compiler turns into SSE2, NEON or whatever the machine has.
#pragma once

#include "../numeric.h"

namespace pyaccel {
namespace {  // each instruction set has a Vec of its own: the linker must not take one for another

struct Vec {
  static constexpr int width = 8;
  static constexpr int registers = 16;
  float v[width];

  static Vec zero() { return {}; }
  template <typename T>
  static Vec load(const T* p) {
    Vec r;
    for (int i = 0; i < width; ++i) r.v[i] = to_float(p[i]);
    return r;
  }
  void add_scaled(float c, Vec x) {
    for (int i = 0; i < width; ++i) v[i] += c * x.v[i];
  }
  void add_product(Vec a, Vec b) {
    for (int i = 0; i < width; ++i) v[i] += a.v[i] * b.v[i];
  }

  static Vec all(float c) {
    Vec r;
    for (int i = 0; i < width; ++i) r.v[i] = c;
    return r;
  }
  // The second operand where one is a NaN.
  static Vec min(Vec a, Vec b) {
    for (int i = 0; i < width; ++i) a.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i];
    return a;
  }
  static Vec max(Vec a, Vec b) {
    for (int i = 0; i < width; ++i) a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
    return a;
  }
  static Vec abs(Vec a) {
    for (int i = 0; i < width; ++i) a.v[i] = float_from_bits(bits_of(a.v[i]) & 0x7fffffffu);
    return a;
  }
  friend Vec operator+(Vec a, Vec b) {
    for (int i = 0; i < width; ++i) a.v[i] = a.v[i] + b.v[i];
    return a;
  }
  friend Vec operator-(Vec a, Vec b) {
    for (int i = 0; i < width; ++i) a.v[i] = a.v[i] - b.v[i];
    return a;
  }
  friend Vec operator*(Vec a, Vec b) {
    for (int i = 0; i < width; ++i) a.v[i] = a.v[i] * b.v[i];
    return a;
  }
  friend Vec operator/(Vec a, Vec b) {
    for (int i = 0; i < width; ++i) a.v[i] = a.v[i] / b.v[i];
    return a;
  }
  template <typename T>
  void store(T* p, bool = false) const {
    for (int i = 0; i < width; ++i) from_float(v[i], p + i);
  }
  template <typename T>
  static void store_pair(T* p, const Vec& low, const Vec& high, bool stream) {
    low.store(p, stream);
    high.store(p + width, stream);
  }
};

}  // namespace
}  // namespace pyaccel
