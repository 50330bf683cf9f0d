// What one instruction set offers: a function for each loop, compiled from the same sources (kernels.h).
#pragma once

#include "../adaln.h"
#include "../blend.h"
#include "../ema.h"
#include "../gated_combination.h"
#include "../inner_products.h"
#include "../linear_combination.h"
#include "../norm_rope.h"
#include "../quantize.h"
#include "../relative_l1.h"
#include "../threshold.h"

namespace pyaccel {

struct CpuKernel {
  const char* name;

  // linear_combination: elements [begin, end) of one sample's outputs; c is that sample's [n, k]. Noise has become one
  // of the k inputs.
  void (*f32)(const Combination&, const float* c, int64_t begin, int64_t end, bool stream);
  void (*f64)(const Combination&, const double* c, int64_t begin, int64_t end);

  // The normals of blocks [q, q + blocks) of a stream (../philox.h), four to a block; writes a multiple of kRoundUp
  // blocks.
  void (*normals)(uint64_t seed, uint64_t stream, uint64_t q, int64_t blocks, float* to);

  // threshold: count elements from element i on, clamped to +-s, and divided by it if so asked.
  void (*clamp)(const Threshold&, double s, bool divide, int64_t i, int64_t count, bool stream);
  // Counts the keys of count elements from element i on, and writes those inside of the bracket; returns their number.
  int64_t (*sift)(const Threshold&, int64_t i, int64_t count, Bracket*, Key* inside);

  // blend: count elements from element i on, and of the mask from element m on.
  void (*blend)(const Blend&, int64_t i, int64_t m, int64_t count, bool stream);

  // gated_combination: one stretch, in float32, or in float64 where any operand is float64.
  void (*gated_f32)(const GatedCombination&, const GatedStretch&);
  void (*gated_f64)(const GatedCombination&, const GatedStretch&);
  // relative_l1: adds the two sums over elements [begin, end) to sums.
  void (*l1_sums)(const RelativeL1&, int64_t begin, int64_t end, bool stream, double* sums);
  // inner_products: adds to sums [n, k] what elements [begin, end) contribute; f64 where any operand is float64.
  void (*inner_products)(const InnerProducts&, int64_t begin, int64_t end, bool f64, double* sums);
  // quantize: rows [begin, end) of x and minus of any type but float64.
  void (*quantize_rows)(const Quantization&, int64_t begin, int64_t end);
  // ema_update: elements [begin, end) of parameter t and of its averages.
  void (*ema)(const EmaUpdate&, int64_t t, int64_t begin, int64_t end, bool stream);
  // adaln: rows [begin, end), in float32, or in float64 where any operand is float64; scratch has room for four rows.
  void (*adaln_f32)(const AdaLN&, int64_t begin, int64_t end, float* scratch);
  void (*adaln_f64)(const AdaLN&, int64_t begin, int64_t end, double* scratch);
  // norm_rope: tokens [begin, end), likewise; scratch has room for two tokens and two heads.
  void (*norm_rope_f32)(const NormRope&, int64_t begin, int64_t end, float* scratch);
  void (*norm_rope_f64)(const NormRope&, int64_t begin, int64_t end, double* scratch);
};

extern const CpuKernel kernel_baseline;
#if defined(PYACCEL_X86)
extern const CpuKernel kernel_avx2;
extern const CpuKernel kernel_avx512;
extern const CpuKernel kernel_avx512bf16;
#endif

// Instruction sets that this build has and this machine runs, best first; null-terminated.
const CpuKernel* const* available_kernels();

}  // namespace pyaccel
