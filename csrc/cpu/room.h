// Room for a thread's numbers, such as a row of them.
#pragma once

#include <cstdint>
#include <memory>

namespace pyaccel {

// Room that begins a cache line.
template <typename Real>
class Room {
 public:
  explicit Room(int64_t size) : bytes_(new char[size_t(size) * sizeof(Real) + 64]) {}
  Real* data() {
    const auto p = reinterpret_cast<uintptr_t>(bytes_.get());
    return reinterpret_cast<Real*>((p + 63) / 64 * 64);
  }

 private:
  std::unique_ptr<char[]> bytes_;
};

}  // namespace pyaccel
