// The loops that draw normals (philox.h), for whichever instruction set includes this file.
//
// The words of L blocks stand in four arrays, a round at a time: in this shape, compilers turn every loop over the
// blocks into vector instructions, three times as fast as ten rounds of one block after the other. No loop has a
// remainder of other instructions: a normal does not depend on where in a call it is drawn.
#pragma once

#include "../philox.h"
#include "linear_combination_cpu.h"

namespace pyaccel {
namespace {

template <int L>
void draw(uint64_t seed, uint64_t stream, uint64_t q, float* to) {
  uint32_t w0[L], w1[L], w2[L], w3[L];
  for (int b = 0; b < L; ++b) {
    w0[b] = uint32_t(q + uint64_t(b));
    w1[b] = uint32_t((q + uint64_t(b)) >> 32);
    w2[b] = uint32_t(stream);
    w3[b] = uint32_t(stream >> 32);
  }
  uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
  for (int round = 0; round < kPhiloxRounds; ++round) {
    for (int b = 0; b < L; ++b) philox_round(w0[b], w1[b], w2[b], w3[b], k0, k1);
    philox_raise(k0, k1);
  }
  for (int b = 0; b < L; ++b) {
    box_muller(w0[b], w1[b], to + 4 * b, to + 4 * b + 1);
    box_muller(w2[b], w3[b], to + 4 * b + 2, to + 4 * b + 3);
  }
}

void normals(uint64_t seed, uint64_t stream, uint64_t q, int64_t blocks, float* to) {
  constexpr int many = 64;  // as many as fill the pipelines
  int64_t b = 0;
  for (; b + many <= blocks; b += many) draw<many>(seed, stream, q + uint64_t(b), to + 4 * b);
  for (; b < blocks; b += kRoundUp) draw<kRoundUp>(seed, stream, q + uint64_t(b), to + 4 * b);
}

}  // namespace
}  // namespace pyaccel
