// What the CUDA runtime says of devices and memory.
#include <map>
#include <mutex>

#include "device.h"
#include "kernels.h"

namespace pyaccel {
namespace {

__global__ void nothing() {}

std::string error_of(const char* what, cudaError_t error) {
  cudaGetLastError();  // so that it is not found again by whoever asks next
  return std::string(what) + ": " + cudaGetErrorString(error);
}

std::string find_problem(int device) {
  int count = 0;
  cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) return error_of("the CUDA driver cannot be used", error);
  if (device < 0 || device >= count) return "there is no GPU of number " + std::to_string(device);
  int before = 0;
  if ((error = cudaGetDevice(&before)) != cudaSuccess) return error_of("no device is current", error);
  std::string problem;
  cudaFuncAttributes attributes;
  if ((error = cudaSetDevice(device)) != cudaSuccess) {
    problem = error_of("the GPU cannot be used", error);
  } else if ((error = cudaFuncGetAttributes(&attributes, nothing)) != cudaSuccess) {
    problem = error_of("the kernels of this build do not run on this GPU", error);
  }
  if (before != device && cudaSetDevice(before) != cudaSuccess) cudaGetLastError();
  return problem;
}

}  // namespace

const std::string& cuda_problem(int device) {
  static std::mutex mutex;
  static std::map<int, std::string> known;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = known.find(device);
  return found != known.end() ? found->second : (known[device] = find_problem(device));
}

CudaDevice::CudaDevice(int device) {
  int now = 0;
  cudaError_t error = cudaGetDevice(&now);
  if (error == cudaSuccess && now != device && (error = cudaSetDevice(device)) == cudaSuccess) before_ = now;
  if (error != cudaSuccess)
    throw std::runtime_error("pyaccel: " + error_of("a GPU cannot be made the current one", error));
}

CudaDevice::~CudaDevice() {
  if (before_ >= 0 && cudaSetDevice(before_) != cudaSuccess) cudaGetLastError();
}

void require_memory_of(int device, const void* p, const char* name) {
  cudaPointerAttributes attributes;
  const cudaError_t error = cudaPointerGetAttributes(&attributes, p);
  if (error != cudaSuccess) throw std::invalid_argument(name + (": " + error_of("this address cannot be used", error)));
  const bool managed = attributes.type == cudaMemoryTypeManaged;
  if (!managed && (attributes.type != cudaMemoryTypeDevice || attributes.device != device))
    throw std::invalid_argument(std::string(name) + ": this address is not of memory of GPU " + std::to_string(device));
}

}  // namespace pyaccel
