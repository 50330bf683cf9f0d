// Room for one call's items: on the stack unless they are many. Another thread may run the same combination.
#pragma once

#include <cstddef>
#include <vector>

namespace pyaccel {

template <typename T, size_t Few = 16>
class Scratch {
 public:
  explicit Scratch(size_t size) {
    if (size > Few) many_.resize(size);
  }
  T* data() { return many_.empty() ? few_ : many_.data(); }
  T& operator[](size_t i) { return data()[i]; }

 private:
  alignas(64) T few_[Few];
  std::vector<T> many_;
};

}  // namespace pyaccel
