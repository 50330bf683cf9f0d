// V elements of any type at once: 16-byte loads and stores, and the numbers in between.
//
// V is chosen for a launch so that the narrowest common types still make 16 bytes: 8 where an operand has 16 bits, 4
// for float32 alone, 2 in float64. Codes of 8 bits take 8 bytes then. What is loaded is kept as bytes until it is
// needed, so that a thread has several loads on their way at once: that is what the speed of memory takes.
#pragma once

#include "../typed.h"
#include "device.h"

namespace pyaccel {
namespace cuda {

// An element type that is known when a kernel is compiled, as a number, or one that is not.
constexpr int kAny = -1;

template <int Known>
PYACCEL_HD DType type_of(DType dtype) {
  return Known == kAny ? dtype : DType(Known);
}

// The address of element i of p; none where there is no p.
PYACCEL_HD const void* element(DType dtype, const void* p, int64_t i) {
  return p == nullptr ? nullptr : static_cast<const char*>(p) + i * size_of(dtype);
}
PYACCEL_HD void* element(DType dtype, void* p, int64_t i) {
  return const_cast<void*>(element(dtype, static_cast<const void*>(p), i));
}

// Loads of Bytes if wanted; otherwise the words are whatever they are. A branch around a plain load would make the
// thread wait for it where the branches meet, and so for one load after the other.
template <int Bytes>
PYACCEL_HD void load_if(bool wanted, const void* from, uint32_t* words) {
#if defined(__CUDA_ARCH__)
  const size_t address = __cvta_generic_to_global(from);
  if constexpr (Bytes == 16) {
    asm volatile("{ .reg .pred p; setp.ne.s32 p, %5, 0; @p ld.global.v4.b32 {%0, %1, %2, %3}, [%4]; }"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "l"(address), "r"(int(wanted))
                 : "memory");
  } else if constexpr (Bytes == 8) {
    asm volatile("{ .reg .pred p; setp.ne.s32 p, %3, 0; @p ld.global.v2.b32 {%0, %1}, [%2]; }"
                 : "=r"(words[0]), "=r"(words[1])
                 : "l"(address), "r"(int(wanted))
                 : "memory");
  } else {
    asm volatile("{ .reg .pred p; setp.ne.s32 p, %2, 0; @p ld.global.b32 %0, [%1]; }"
                 : "=r"(words[0])
                 : "l"(address), "r"(int(wanted))
                 : "memory");
  }
#else
  struct alignas(Bytes) Aligned {
    unsigned char bytes[Bytes];
  };
  if (wanted) memcpy(words, static_cast<const Aligned*>(from)->bytes, Bytes);
#endif
}

// V elements of at most sizeof(Real) bytes, not yet looked at: 16 bytes or more in words, fewer in narrow. Those of
// types that only some operations take, 8-bit codes, are Coded.
template <typename Real, int V, bool Coded>
struct Raw {
  uint32_t words[V * sizeof(Real) / 4];
  uint32_t narrow[2];
};

// Elements [i, i + V) of p, if they are wanted; whatever there is otherwise.
template <typename Real, int V, bool Coded = false>
PYACCEL_HD Raw<Real, V, Coded> fetch(DType dtype, const void* p, int64_t i, bool wanted = true) {
  Raw<Real, V, Coded> raw;
  const int size = int(size_of(dtype));
  const char* from = static_cast<const char*>(p) + i * size;
  load_if<16>(wanted && V * size >= 16, from, raw.words);
  if constexpr (V * sizeof(Real) == 32) load_if<16>(wanted && V * size == 32, from + 16, raw.words + 4);
  if constexpr (sizeof(Real) == sizeof(float)) {
    if constexpr (Coded) load_if<V>(wanted && size == 1, from, raw.narrow);
  } else {  // next to float64
    load_if<8>(wanted && size == 4, from, raw.narrow);
    if (wanted && size == 2) raw.narrow[0] = *reinterpret_cast<const uint32_t*>(from);
    if (wanted && Coded && size == 1) raw.narrow[0] = *reinterpret_cast<const uint16_t*>(from);
  }
  return raw;
}

// All of them, as what comes by once where it is so: it does not drive out what the caches hold.
template <typename Real, int V, bool Coded>
PYACCEL_HD Raw<Real, V, Coded> fetch_once(DType dtype, const void* p, int64_t i, bool once) {
#if defined(__CUDA_ARCH__)
  static_assert(sizeof(Real) == sizeof(float));
  Raw<Real, V, Coded> raw = fetch<Real, V, Coded>(dtype, p, i, !once);
  const int bytes = V * int(size_of(dtype));
  const size_t from = __cvta_generic_to_global(static_cast<const char*>(p) + i * size_of(dtype));
  if (bytes == 16) {
    asm volatile("{ .reg .pred p; setp.ne.s32 p, %5, 0; @p ld.global.cs.v4.b32 {%0, %1, %2, %3}, [%4]; }"
                 : "+r"(raw.words[0]), "+r"(raw.words[1]), "+r"(raw.words[2]), "+r"(raw.words[3])
                 : "l"(from), "r"(int(once))
                 : "memory");
  } else if (bytes == 8) {
    asm volatile("{ .reg .pred p; setp.ne.s32 p, %3, 0; @p ld.global.cs.v2.b32 {%0, %1}, [%2]; }"
                 : "+r"(raw.narrow[0]), "+r"(raw.narrow[1])
                 : "l"(from), "r"(int(once))
                 : "memory");
  } else {
    asm volatile("{ .reg .pred p; setp.ne.s32 p, %2, 0; @p ld.global.cs.b32 %0, [%1]; }"
                 : "+r"(raw.narrow[0])
                 : "l"(from), "r"(int(once))
                 : "memory");
  }
  return raw;
#else
  return fetch<Real, V, Coded>(dtype, p, i);
#endif
}

// Elements [i, i + V), 16 bytes or more, of memory that nobody writes while the kernel runs: so the compiler may ask
// for them early, and for several at once, across the stores of what was done before.
template <typename Real, int V>
PYACCEL_HD Raw<Real, V, false> fetch_constant(DType dtype, const void* p, int64_t i) {
#if defined(__CUDA_ARCH__)
  Raw<Real, V, false> raw;
  const int bytes = V * int(size_of(dtype));
  const uint4* const from = reinterpret_cast<const uint4*>(static_cast<const char*>(p) + i * size_of(dtype));
#pragma unroll
  for (int part = 0; part < int(V * sizeof(Real)) / 16; ++part) {
    if (bytes <= 16 * part) continue;
    const uint4 words = __ldg(from + part);
    raw.words[4 * part] = words.x, raw.words[4 * part + 1] = words.y;
    raw.words[4 * part + 2] = words.z, raw.words[4 * part + 3] = words.w;
  }
  return raw;
#else
  return fetch<Real, V>(dtype, p, i);
#endif
}

// What was fetched, as numbers: f(e, number e).
template <typename Real, int V, bool Coded, typename F>
PYACCEL_HD void decode(DType dtype, const Raw<Real, V, Coded>& raw, F f) {
  const auto each = [&](auto typed) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(typed)>>;
    if constexpr (std::is_same_v<T, bf16> && V % 2 == 0) {  // the halves of a word, an instruction each
      const uint32_t* const words = V * sizeof(T) >= 16 ? raw.words : raw.narrow;
      for (int w = 0; w < V / 2; ++w) {
        f(2 * w, Real(float_from_bits(words[w] << 16)));
        f(2 * w + 1, Real(float_from_bits(words[w] & 0xffff0000u)));
      }
    } else if constexpr (sizeof(T) <= sizeof(Real)) {
      T elements[V];
      memcpy(elements, sizeof elements >= 16 ? raw.words : raw.narrow, sizeof elements);
      for (int e = 0; e < V; ++e) f(e, Real(to_double(elements[e])));
    }
  };
  if constexpr (Coded) {
    with_any_type(dtype, nullptr, 0, each);
  } else {
    with_type(dtype, nullptr, 0, each);
  }
}

// In one store for each 16 bytes: a compiler may take a plain one apart.
template <int Bytes>
PYACCEL_HD void copy_out(const uint32_t* words, void* to) {
  if constexpr (Bytes >= 16) {
    for (int part = 0; part < Bytes / 16; ++part, words += 4) {
      uint4* const at = static_cast<uint4*>(to) + part;
#if defined(__CUDA_ARCH__)
      asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(at)), "r"(words[0]),
                   "r"(words[1]), "r"(words[2]), "r"(words[3])
                   : "memory");
#else
      *at = uint4{words[0], words[1], words[2], words[3]};
#endif
    }
  } else if constexpr (Bytes == 8) {
    *static_cast<uint2*>(to) = uint2{words[0], words[1]};
  } else {
    *static_cast<uint32_t*>(to) = words[0];
  }
}

// Numbers rounded to elements of a type that is no code.
template <int V, typename Real, typename T>
PYACCEL_HD void round_all(const Real* numbers, T* elements) {
  for (int e = 0; e < V; ++e) {
    if constexpr (sizeof(T) == sizeof(double)) {
      elements[e] = numbers[e];
    } else {
      from_float(float(numbers[e]), elements + e);
    }
  }
}

// Numbers to elements [i, i + V) of out.
template <typename Real, int V>
PYACCEL_HD void store(const Real* numbers, DType dtype, void* out, int64_t i) {
  with_type(dtype, out, i, [&](auto typed) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(typed)>>;
    if constexpr (sizeof(T) <= sizeof(Real)) {
      T elements[V];
      round_all<V>(numbers, elements);
      uint32_t words[V * sizeof(T) / 4];
      memcpy(words, elements, sizeof elements);
      copy_out<V * sizeof(T)>(words, const_cast<T*>(typed));
    }
  });
}

// Numbers as they would be fetched, had they been stored.
template <typename Real, int V>
PYACCEL_HD Raw<Real, V, false> encode(const Real* numbers, DType dtype) {
  Raw<Real, V, false> raw;
  with_type(dtype, nullptr, 0, [&](auto typed) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(typed)>>;
    if constexpr (sizeof(T) <= sizeof(Real)) {
      T elements[V];
      round_all<V>(numbers, elements);
      memcpy(sizeof elements >= 16 ? raw.words : raw.narrow, elements, sizeof elements);
    }
  });
  return raw;
}

// What was fetched or encoded, to elements [i, i + V) of out.
template <typename Real, int V>
PYACCEL_HD void store_raw(const Raw<Real, V, false>& raw, DType dtype, void* out, int64_t i) {
  with_type(dtype, out, i, [&](auto typed) {
    constexpr int bytes = V * int(sizeof(*typed));
    void* const to = const_cast<void*>(static_cast<const void*>(typed));
    if constexpr (sizeof(*typed) <= sizeof(Real)) copy_out<bytes>(bytes >= 16 ? raw.words : raw.narrow, to);
  });
}

// Numbers [i, i + V) of p, for V = 1 too.
template <typename Real, int V>
PYACCEL_HD void read_numbers(DType dtype, const void* p, int64_t i, Real* numbers) {
  if constexpr (V == 1) {
    *numbers = read_number<Real>(dtype, p, i);
  } else {
    decode(dtype, fetch<Real, V>(dtype, p, i), [&](int e, Real x) { numbers[e] = x; });
  }
}

template <typename Real, int V>
PYACCEL_HD void store_numbers(const Real* numbers, DType dtype, void* out, int64_t i) {
  if constexpr (V == 1) {
    store_number(*numbers, dtype, out, i);
  } else {
    store<Real, V>(numbers, dtype, out, i);
  }
}

// The operands of a launch: which numbers it wants, and whether it may go in vectors.
class Operands {
 public:
  void add(const void* p, DType dtype) {
    const int64_t size = size_of(dtype);
    if (reinterpret_cast<uintptr_t>(p) % uintptr_t(size) != 0)
      throw std::invalid_argument("pyaccel: a tensor on a GPU does not begin at a multiple of its element's size");
    wide_ |= dtype == DType::f64;
    half_ |= size == 2;
    address_[size == 8 ? 3 : size == 4 ? 2 : size == 2 ? 1 : 0] |= reinterpret_cast<uintptr_t>(p);
  }
  // Runs that begin at multiples of size; a vector must not reach from one into the next.
  void add_run(int64_t size) { runs_ |= uint64_t(size); }

  bool wide() const { return wide_; }                      // float64
  int lanes() const { return wide_ ? 2 : half_ ? 8 : 4; }  // V
  // How many of total elements go as vectors: as many as fit, or none.
  int64_t vectors(int64_t total, int v) const {
    bool fit = runs_ % uint64_t(v) == 0;
    for (int s = 0; s < 4; ++s) fit &= address_[s] % std::min<uint64_t>(16, uint64_t(v) << s) == 0;
    return fit ? total / v : 0;
  }

 private:
  bool wide_ = false, half_ = false;
  uintptr_t address_[4] = {};  // the bits of all addresses, by the size of the elements: 1 << s bytes
  uint64_t runs_ = 0;
};

// Of a kernel made for each number of lanes the one for these operands.
template <typename Kernel>
Kernel by_lanes(const Operands& operands, Kernel two_doubles, Kernel four, Kernel eight) {
  return operands.wide() ? two_doubles : operands.lanes() == 8 ? eight : four;
}

// A tensor that broadcasts: element i goes with i / (inner repeats) * inner + i % inner of it.
struct Broadcast {
  const void* p;
  DType dtype;
  int64_t inner, repeats;
  Divisor run, period;  // inner, and inner repeats

  Broadcast() = default;
  Broadcast(const void* data, DType type, int64_t inner, int64_t repeats)
      : p(data), dtype(type), inner(inner), repeats(repeats), run(inner), period(inner * repeats) {}

  PYACCEL_HD bool one_number() const { return inner == 1; }  // for each run of repeats elements
  PYACCEL_HD int64_t at(int64_t i) const {
    if (repeats == 1) return i;
    return (period.quotient(i) - run.quotient(i)) * inner + i;
  }
  void add_to(Operands& operands) const {
    operands.add(p, dtype);
    if (repeats > 1) operands.add_run(one_number() ? repeats : inner);
  }
};

// Its elements of [i, i + V), fetched and later decoded; where it is one number, that is read when it is decoded.
template <typename Real, int V>
PYACCEL_HD Raw<Real, V, false> fetch(const Broadcast& b, int64_t i) {
  if (b.repeats > 1 && b.one_number()) return {};
  return fetch<Real, V>(b.dtype, b.p, b.at(i));
}
template <typename Real, int V, typename F>
PYACCEL_HD void decode(const Broadcast& b, const Raw<Real, V, false>& raw, int64_t i, F f) {
  if (b.repeats > 1 && b.one_number()) {
    const Real number = read_number<Real>(b.dtype, b.p, b.at(i));
    for (int e = 0; e < V; ++e) f(e, number);
  } else {
    decode(b.dtype, raw, f);
  }
}

}  // namespace cuda
}  // namespace pyaccel
