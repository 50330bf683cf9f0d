// Rows whose sums are wanted before they are written: which threads share one, and which of its pieces are whose.
//
// A short row has as many lanes of a warp as it has pieces, a long one all threads of a block. Piece k of a lane is
// lane + k lanes. The pieces of a lane stay in its registers where they are at most Held, which is known when the
// kernel is compiled; Held = 0 is for rows that are too long for that and are read again, from the cache.
#pragma once

#include "../adaln.h"
#include "vectors.h"

namespace pyaccel {
namespace cuda {

// An element type that is known when a kernel is compiled, as a number, or one that is not.
constexpr int kAny = -1;

template <int Known>
PYACCEL_HD DType type_of(DType dtype) {
  return Known == kAny ? dtype : DType(Known);
}

struct Sharing {
  int bits;  // of the number of lanes, a power of two
  int held;  // of 1, 2, ... most, or 0

  PYACCEL_HD int lanes() const { return 1 << bits; }
};

inline Sharing sharing_of(int64_t pieces, int most) {
  Sharing s{0, 1};
  if (pieces > kWarp * most) {
    while (s.lanes() < kThreads) ++s.bits;
  } else {
    while (s.lanes() < kWarp && s.lanes() < pieces) ++s.bits;
  }
  while (s.held <= most && s.lanes() * s.held < pieces) s.held *= 2;
  if (s.held > most) s.held = 0;
  return s;
}

// f(row, lane, whether there is such a row): with all lanes of a warp, or all threads of a block, in each turn, so that
// they may add up what they have.
template <typename F>
__device__ void each_row(int64_t rows, const Sharing& sharing, F f) {
  const int lane = int(threadIdx.x) & (sharing.lanes() - 1), warp_lane = int(threadIdx.x) % kWarp;
  for (int64_t turn = first_turn(); (turn - warp_lane) >> sharing.bits < rows; turn += turn_step()) {
    const int64_t row = turn >> sharing.bits;
    f(row, lane, row < rows);
  }
}

template <int Held, typename F>
PYACCEL_HD void each_piece(int lane, const Sharing& sharing, int64_t pieces, F f) {
  if constexpr (Held > 0) {
#pragma unroll
    for (int k = 0; k < Held; ++k)
      if (lane + k * sharing.lanes() < pieces) f(k, int64_t(lane + k * sharing.lanes()));
  } else {
    for (int64_t g = lane; g < pieces; g += sharing.lanes()) f(0, g);
  }
}

// Over the lanes of a row, in each of them.
template <typename Real>
__device__ Real sum_of_row(Real value, const Sharing& sharing) {
  return sharing.lanes() > kWarp ? across_block(value, Sum()) : across_warp(value, Sum(), sharing.lanes());
}

inline Broadcast entries_of(const RowOperand& operand) {
  return {operand.data, operand.dtype, operand.inner, operand.repeats};
}

}  // namespace cuda
}  // namespace pyaccel
