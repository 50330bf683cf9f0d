// Gaussian noise that is a function of (seed, stream, position): drawn where it is used, never stored, the same on
// every backend, for every split of a batch and any number of threads.
//
// Element e of a sample (counted in contiguous row-major logical order; a sample is one entry of the first dimension)
// belongs to block q = e / 4. A block's four words w0..w3 are
//
//   Philox4x32-10(counter = (q mod 2^32, q / 2^32, stream mod 2^32, stream / 2^32), key = (seed mod 2^32, seed / 2^32))
//
// (Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3"; constants of Random123), seed and
// stream in [0, 2^63). Two words give two normals (Box and Muller 1958), in float32: (w0, w1) those of the elements 4q
// and 4q + 1, (w2, w3) those of 4q + 2 and 4q + 3:
//
//   u1 = float32(w0) 2^-32 + 2^-33  in (0, 1], one rounding for the conversion and one for the sum
//   u2 = float32(w1) 2^-32          in [0, 1], one rounding
//   n0 = r cos(2 pi u2),  n1 = r sin(2 pi u2),  r = sqrt(-2 ln u1) <= 6.77
//
// The words are the same bits everywhere. A normal is within 1e-6 of the exact value for its u1 and u2: polynomials err
// by less than 1e-8, the rest is the rounding of float32, of which half a unit is 2.4e-7 where r > 4.
//
// Everything is free of branches and tables, so that compilers turn a loop over blocks into vector instructions.
#pragma once

#include <cmath>
#include <cstdint>

#include "numeric.h"

namespace pyaccel {

constexpr int kPhiloxRounds = 10;

// One of the rounds; between two of them the key is raised by philox_raise.
PYACCEL_HD void philox_round(uint32_t& c0, uint32_t& c1, uint32_t& c2, uint32_t& c3, uint32_t k0, uint32_t k1) {
  const uint64_t a = uint64_t(c0) * 0xD2511F53u, b = uint64_t(c2) * 0xCD9E8D57u;
  c0 = uint32_t(b >> 32) ^ c1 ^ k0;
  c1 = uint32_t(b);
  c2 = uint32_t(a >> 32) ^ c3 ^ k1;
  c3 = uint32_t(a);
}

PYACCEL_HD void philox_raise(uint32_t& k0, uint32_t& k1) {
  k0 += 0x9E3779B9u;
  k1 += 0xBB67AE85u;
}

// -2 ln u for normal u > 0. With u = 2^e (1 + f), sqrt(1/2) <= 1 + f < sqrt(2): ln u = e ln 2 + f - f^2/2 + f^3 P(f),
// P a minimax polynomial under the weight f^3 (error 7e-9). ln 2 is split so that e times its first part is exact.
PYACCEL_HD float minus_two_log(float u) {
  const uint32_t shifted = bits_of(u) - 0x3f3504f3u;  // the bits of sqrt(1/2): e counts from there
  const float e = float(int32_t(shifted) >> 23);
  const float f = float_from_bits((shifted & 0x007fffffu) + 0x3f3504f3u) - 1.0f;
  const float square = f * f;
  float p = 0.0867215842f;
  p = p * f - 0.143789738f;
  p = p * f + 0.149779811f;
  p = p * f - 0.165644288f;
  p = p * f + 0.199548781f;
  p = p * f - 0.250017f;
  p = p * f + 0.333341658f;
  const float small = (f * p - 0.5f) * square + e * -2.12194440e-4f;
  return -2.0f * ((f + small) + e * 0.693359375f);
}

// sin and cos of u turns, u in [0, 1]. With u = j/4 + t, |t| <= 1/8 (exact): cos(2 pi t) = 1 + t^2 C(t^2) and
// sin(2 pi t) = 2 pi t + t S(t^2), minimax (errors 4e-10 and 1e-9), then the quadrant's exchange and signs.
PYACCEL_HD void sincos_turns(float u, float* sine, float* cosine) {
  const int32_t j = int32_t(u * 4.0f + 0.5f);
  const float t = u - float(j) * 0.25f;
  const float z = t * t;
  float s = -75.24654f, c = 58.54491f;
  s = s * z + 81.58829f;
  c = c * z - 85.42292f;
  s = s * z - 41.34163f;
  c = c * z + 64.93914f;
  s = s * z - 2.616836e-7f;  // 2 pi, less its float32
  c = c * z - 19.739208f;
  const uint32_t sin_t = bits_of(t * s + t * 6.28318548f), cos_t = bits_of(c * z + 1.0f);
  const uint32_t odd = 0u - (uint32_t(j) & 1u);  // all ones in the quadrants where sine and cosine change places
  const uint32_t exchange = (sin_t ^ cos_t) & odd;
  *sine = float_from_bits((sin_t ^ exchange) ^ ((uint32_t(j) & 2u) << 30));
  *cosine = float_from_bits((cos_t ^ exchange) ^ ((uint32_t(j + 1) & 2u) << 30));
}

PYACCEL_HD void box_muller(uint32_t w0, uint32_t w1, float* n0, float* n1) {
  constexpr float unit = 1.0f / 4294967296.0f;
  const float r = sqrtf(minus_two_log(float(w0) * unit + 0.5f * unit));
  float sine, cosine;
  sincos_turns(float(w1) * unit, &sine, &cosine);
  *n0 = r * cosine;
  *n1 = r * sine;
}

// The four normals of block q: what a GPU's thread draws by itself.
PYACCEL_HD void normals_of_block(uint64_t seed, uint64_t stream, uint64_t q, float* normals) {
  uint32_t w0 = uint32_t(q), w1 = uint32_t(q >> 32), w2 = uint32_t(stream), w3 = uint32_t(stream >> 32);
  uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
  for (int round = 0; round < kPhiloxRounds; ++round) {
    philox_round(w0, w1, w2, w3, k0, k1);
    philox_raise(k0, k1);
  }
  box_muller(w0, w1, normals, normals + 1);
  box_muller(w2, w3, normals + 2, normals + 3);
}

}  // namespace pyaccel
