// The CUDA side of the operations: each function launches kernels in a stream and returns at once.
//
// All pointers are to memory of the current device, to which the stream belongs; host memory is read before a function
// returns. Nothing is launched for zero elements. A launch that fails throws std::runtime_error with the kernel's name.
#pragma once

#include <cstdint>
#include <string>

#include "../adaln.h"
#include "../blend.h"
#include "../ema.h"
#include "../gated_combination.h"
#include "../linear_combination.h"
#include "../norm_rope.h"
#include "../quantize.h"
#include "../relative_l1.h"
#include "../threshold.h"

namespace pyaccel {

// Inputs of one launch, for linear_combination streams of noise as well: what the parameters of a kernel have room for.
constexpr int kMostColumns = 64;

// table: null, or the coefficients in device memory, float32, or float64 where an operand is float64; then those of the
// job are not read.
void linear_combination_cuda(const Combination& job, const void* table, void* stream);

void gated_combination_cuda(const GatedCombination& job, void* stream);

void blend_cuda(const Blend& job, void* stream);

void ema_update_cuda(const EmaUpdate& job, void* stream);

// x and minus of any type but float64.
void quantize_cuda(const Quantization& job, void* stream);

// The rows that share entries of an absent operand, and stream, are not read.
void adaln_cuda(const AdaLN& job, void* stream);

void norm_rope_cuda(const NormRope& job, void* stream);

// Partial sums of |a - b| and |b|, two numbers for each of so many blocks.
constexpr int64_t relative_l1_blocks(int64_t total) {
  const int64_t worth = (total + 4095) / 4096;
  return worth < 1 ? 1 : worth > 2048 ? 2048 : worth;
}
void relative_l1_partial_cuda(const RelativeL1& job, double* partial, void* stream);
// The quotient of the sums of so many blocks, as csrc/relative_l1.h defines it: one number, float32 or float64.
void relative_l1_quotient_cuda(const double* partial, int64_t blocks, void* out, DType dtype, void* stream);

// Bytes of device memory that threshold_cuda wants for the quantile of each sample, aligned to 16.
constexpr int64_t kSelectionBytes = 2096;
void threshold_cuda(const Threshold& job, void* scratch, void* stream);

// Empty where the kernels run on this device; otherwise the reason why not.
const std::string& cuda_problem(int device);

// Makes a device the current one while it lives.
class CudaDevice {
 public:
  explicit CudaDevice(int device);
  ~CudaDevice();
  CudaDevice(const CudaDevice&) = delete;
  CudaDevice& operator=(const CudaDevice&) = delete;

 private:
  int before_ = -1;  // the device to go back to; -1 where it was this one
};

// An error unless p, which name names, is memory that kernels on this device may use.
void require_memory_of(int device, const void* p, const char* name);

}  // namespace pyaccel
