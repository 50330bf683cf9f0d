// The exact quantile of magnitudes in one pass over memory, by a bracket from a random sample (../threshold.h).
//
// The sample has m elements, so its ratio-quantile has a rank among all that errs by sqrt(ratio (1 - ratio) / m) of
// their number: four of these on either side hold both order statistics nearly always, and less than a hundredth of
// all. Keys equal to the bracket's ends are counted and not kept, so that many equal values, as in a clipped or a
// 16-bit prediction, cost nothing.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "epilogues_cpu.h"
#include "parallel.h"

namespace pyaccel {
namespace {

constexpr int64_t kFew = 8192;    // elements that are selected from directly
constexpr int64_t kPiece = 4096;  // elements that are sifted at a time: their keys stay in the first cache

Key key_at(const Threshold& job, int64_t i) {
  switch (job.dtype) {
    case DType::f32:
      return key_of(static_cast<const float*>(job.x)[i]);
    case DType::bf16:
      return key_of(static_cast<const bf16*>(job.x)[i]);
    case DType::f16:
      return key_of(static_cast<const f16*>(job.x)[i]);
    default:
      return key_of(static_cast<const double*>(job.x)[i]);
  }
}

// The order statistic of a rank, and the one after it.
struct Pair {
  Key first, second;
};

// rank + 1 < keys.size(), or equal to it: then there is no second, and it is the first again.
Pair select(std::vector<Key>& keys, int64_t rank) {
  const auto at = keys.begin() + rank;
  std::nth_element(keys.begin(), at, keys.end());
  return {*at, at + 1 == keys.end() ? *at : *std::min_element(at + 1, keys.end())};
}

Bracket bracket_of(const Threshold& job, int64_t first) {
  const int64_t m = std::min<int64_t>(std::max<int64_t>(job.inner / 64, 1024), 16384);
  std::vector<Key> keys(static_cast<size_t>(m));
  uint64_t state = 0x9e3779b97f4a7c15;  // the sample needs no more than to be independent of what an image looks like
  for (int64_t e = 0; e < m; ++e) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    const int64_t begin = job.inner * e / m, size = job.inner * (e + 1) / m - begin;
    keys[size_t(e)] = key_at(job, first + begin + int64_t((state >> 33) % uint64_t(size)));
  }
  const double middle = job.ratio * double(m - 1), reach = 2 + 4 * std::sqrt(job.ratio * (1 - job.ratio) * double(m));
  Bracket bracket{-1, infinity_key(job.dtype) + 1};  // beyond every number
  const double low = std::floor(middle - reach), high = std::ceil(middle + reach);
  if (low >= 0) {
    std::nth_element(keys.begin(), keys.begin() + int64_t(low), keys.end());
    bracket.low = keys[size_t(low)];
  }
  if (high < double(m)) {
    std::nth_element(keys.begin() + int64_t(std::max(low, 0.0)), keys.begin() + int64_t(high), keys.end());
    bracket.high = keys[size_t(high)];
  }
  return bracket;
}

// The keys inside of the bracket, whose counts are filled in.
std::vector<Key> sifted(const Threshold& job, int64_t first, Bracket& bracket, const CpuKernel& kernel, int threads) {
  std::vector<Key> kept;
  split(job.inner, threads, [&](int64_t begin, int64_t end) {
    Bracket mine{bracket.low, bracket.high};
    std::vector<Key> keys;
    Key piece[kPiece];
    for (int64_t i = begin; i < end; i += kPiece) {
      const int64_t found = kernel.sift(job, first + i, std::min(kPiece, end - i), &mine, piece);
      keys.insert(keys.end(), piece, piece + found);
    }
#if defined(_OPENMP)
#pragma omp critical(pyaccel_sifted)
#endif
    {
      bracket.below += mine.below;
      bracket.at_low += mine.at_low;
      bracket.inside += mine.inside;
      bracket.at_high += mine.at_high;
      bracket.greatest = std::max(bracket.greatest, mine.greatest);
      kept.insert(kept.end(), keys.begin(), keys.end());
    }
  });
  return kept;
}

// The order statistics of ranks rank and rank + 1 (or rank again, if it is the last); a NaN's key if there is a NaN.
Pair order_statistics(const Threshold& job, int64_t first, int64_t rank, const CpuKernel& kernel, int threads) {
  const Key infinity = infinity_key(job.dtype);
  if (job.inner > kFew) {
    Bracket b = bracket_of(job, first);
    std::vector<Key> keys = sifted(job, first, b, kernel, threads);
    if (b.greatest > infinity) return {b.greatest, b.greatest};
    const bool single = b.low == b.high;
    // Ranks below each of these are of keys at low, inside, at high.
    const int64_t low_end = b.below + b.at_low, inside_end = low_end + b.inside;
    const int64_t high_end = inside_end + (single ? 0 : b.at_high);
    const int64_t last = std::min(rank + 1, job.inner - 1);
    if (b.below <= rank && last < high_end) {
      Pair pair{b.low, b.low};
      if (rank >= inside_end) {
        pair = {b.high, b.high};
      } else if (rank >= low_end) {
        pair = select(keys, rank - low_end);
        if (last >= inside_end) pair.second = b.high;
      } else if (last >= inside_end) {
        pair.second = b.high;
      } else if (last >= low_end) {
        pair.second = select(keys, 0).first;
      }
      return pair;
    }
  }
  std::vector<Key> keys(static_cast<size_t>(job.inner));
  for (int64_t i = 0; i < job.inner; ++i) keys[size_t(i)] = key_at(job, first + i);
  const Key greatest = *std::max_element(keys.begin(), keys.end());
  if (greatest > infinity) return {greatest, greatest};
  return select(keys, rank);
}

}  // namespace

double quantile_cpu(const Threshold& job, int64_t sample, const CpuKernel& kernel, int threads) {
  const double rank = job.ratio * double(job.inner - 1), below = std::floor(rank);
  const Pair pair = order_statistics(job, sample * job.inner, int64_t(below), kernel, threads);
  if (pair.first > infinity_key(job.dtype)) return std::numeric_limits<double>::quiet_NaN();
  const double first = value_of(job.dtype, pair.first), second = value_of(job.dtype, pair.second);
  return quantile_between(first, second, rank - below);
}

}  // namespace pyaccel
