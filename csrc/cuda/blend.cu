// blend on CUDA: out = m x + (1 - m) (alpha image + sigma noise) (../blend.h).
//
// Bytes: x, image and noise are read once and out is written once, in 16-byte accesses; a mask that several channels or
// samples share comes from the cache for all but its first use. A thread has read its V elements of everything before
// it writes them, so that out may be one of the operands.
#include "../blend.h"
#include "kernels.h"
#include "vectors.h"

namespace pyaccel {
namespace {

using namespace cuda;

struct Launch {
  Blend blend;
  Broadcast mask;
  int64_t vectors;
};

template <typename Real, int V>
PYACCEL_HD void blend_vector(const Launch& job, int64_t i) {
  const Blend& b = job.blend;
  const auto raw_of = [&](Blend::Operand which) { return fetch<Real, V>(b.in_dtype[which], b.in[which], i); };
  const auto raw_x = raw_of(Blend::kX), raw_image = raw_of(Blend::kImage), raw_noise = raw_of(Blend::kNoise);
  const auto raw_mask = fetch<Real, V>(job.mask, i);
  Real x[V], image[V], noise[V], out[V];
  decode(b.in_dtype[Blend::kX], raw_x, [&](int v, Real value) { x[v] = value; });
  decode(b.in_dtype[Blend::kImage], raw_image, [&](int v, Real value) { image[v] = value; });
  decode(b.in_dtype[Blend::kNoise], raw_noise, [&](int v, Real value) { noise[v] = value; });
  decode(job.mask, raw_mask, i,
         [&](int v, Real m) { out[v] = blended<Real>(x[v], image[v], noise[v], m, Real(b.alpha), Real(b.sigma)); });
  store<Real, V>(out, b.out_dtype, b.out, i);
}

template <typename Real, int V>
__global__ void __launch_bounds__(kThreads) blend_all(const __grid_constant__ Launch job) {
  for (int64_t i = first_turn(); i < job.vectors; i += turn_step()) blend_vector<Real, V>(job, i * V);
  for (int64_t i = job.vectors * V + first_turn(); i < job.blend.total; i += turn_step())
    store_number(blended_element<Real>(job.blend, i, job.mask.at(i)), job.blend.out_dtype, job.blend.out, i);
}

}  // namespace

void blend_cuda(const Blend& blend, void* stream) {
  if (blend.total == 0) return;
  Launch job{blend, {blend.in[Blend::kMask], blend.in_dtype[Blend::kMask], blend.inner, blend.repeats}, 0};
  Operands operands;
  for (int j = 0; j < Blend::kMask; ++j) operands.add(blend.in[j], blend.in_dtype[j]);
  job.mask.add_to(operands);
  operands.add(blend.out, blend.out_dtype);
  const int v = operands.lanes();
  job.vectors = operands.vectors(blend.total, v);
  const int64_t blocks = blocks_for(std::max(job.vectors, blend.total - job.vectors * v));
  launch("blend", by_lanes(operands, blend_all<double, 2>, blend_all<float, 4>, blend_all<float, 8>), blocks, stream,
         job);
}

}  // namespace pyaccel
