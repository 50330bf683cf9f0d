// Rows whose sums are wanted before they are written: which threads share one, and which of its pieces are whose.
//
// A row has lanes of one warp, one that is too long for them all threads of a block. Piece k of a lane is
// lane + k lanes. The pieces of a lane stay in its registers where they are at most Held, which is known when the
// kernel is compiled; Held = 0 is for rows that are too long for that and are read again, from the cache.
#pragma once

#include "../adaln.h"
#include "vectors.h"

namespace pyaccel {
namespace cuda {

// How the rows of a launch are shared out.
struct Sharing {
  int bits;  // of the number of lanes, a power of two

  PYACCEL_HD int lanes() const { return 1 << bits; }
};

PYACCEL_HD constexpr int log_of(int lanes) {
  int bits = 0;
  while ((1 << bits) < lanes) ++bits;
  return bits;
}

// Rows that are not held: of few pieces to as many lanes of a warp, of many to a block.
inline Sharing read_again(int64_t pieces, int64_t longest_for_a_warp) {
  Sharing s{0};
  while (s.lanes() < kWarp && s.lanes() < pieces) ++s.bits;
  return pieces > longest_for_a_warp ? Sharing{log_of(kThreads)} : s;
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

// f(row, lane) where rows fill whole warps, or a row is a whole block's, so that all of its threads have one or none.
// In one turn, which keeps no registers for the next: there is no memory for more rows than a grid has turns.
template <int Lanes, typename F>
__device__ void each_whole_row(int64_t rows, F f) {
  static_assert(Lanes <= kWarp || Lanes == kThreads);
  const int64_t row = first_turn() / Lanes;
  if (row < rows) f(row, int(threadIdx.x) % Lanes);
}

// f(k, d): of each piece of a lane, which is the k-th that it holds and lies d pieces after its first. d is known when
// the kernel is compiled where pieces are held and so are the lanes: an address then takes no registers. The first Sure
// pieces are there in every row.
template <int Held, int Sure = 0, typename F>
PYACCEL_HD void each_piece(int lane, const Sharing& sharing, int64_t pieces, F f) {
  if constexpr (Held > 0) {
#pragma unroll
    for (int k = 0; k < Held; ++k)
      if (k < Sure || lane + k * sharing.lanes() < pieces) f(k, int64_t(k * sharing.lanes()));
  } else {
    for (int64_t d = 0; lane + d < pieces; d += sharing.lanes()) f(0, d);
  }
}

// A held piece of 16 bytes stays what it is: without this, the compiler keeps the numbers that were once made of it,
// which take twice the registers.
template <typename Real, int V>
PYACCEL_HD void keep_as_bytes(Raw<Real, V, false>& raw) {
#if defined(__CUDA_ARCH__)
#pragma unroll
  for (int w = 0; w < 4; ++w) asm volatile("" : "+r"(raw.words[w]));
#endif
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
