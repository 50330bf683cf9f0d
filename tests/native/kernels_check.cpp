// Every operation on random operands of odd sizes, of all types and at addresses that vectors cannot take, against
// float64. The sanitizers watch each access meanwhile. Prints "right" if all was.
#include <algorithm>
#include <limits>
#include <memory>

#include "engine.h"
#include "operands.h"
#include "philox.h"

using namespace check;

namespace {

constexpr int64_t kSizes[] = {1, 3, 8, 31, 257, 1000, 4099};

int64_t any_size() { return kSizes[below(7)]; }
bool aligned = false;  // at times all operands are, so that they go in vectors however many there are
int any_offset() { return !aligned && below(3) == 0 ? below(5) : 0; }

std::vector<Tensor> operands(int count, int64_t size, DType same, bool mixed) {
  std::vector<Tensor> made;
  for (int j = 0; j < count; ++j) {
    made.emplace_back(mixed ? any_float() : same, size, any_offset());
    made.back().fill();
  }
  return made;
}

float noise_at(uint64_t seed, uint64_t stream, int64_t e) {
  float block[4];
  normals_of_block(seed, stream, uint64_t(e / 4), block);
  return block[e % 4];
}

void linear_combination(int k, int n, int streams, int64_t batch, int64_t inner, bool per_sample, DType same,
                        bool mixed, bool in_place) {
  std::vector<Tensor> in = operands(k, batch * inner, same, mixed), out = operands(n, batch * inner, same, mixed);
  std::vector<Tensor> before;
  for (auto& t : in) {
    before.emplace_back(t.dtype(), t.size(), 0);
    for (int64_t i = 0; i < t.size(); ++i) before.back().set(i, t.at(i));
  }
  const int columns = k + streams;
  std::vector<double> c(size_t((per_sample ? batch : 1) * n * columns));
  for (double& x : c) x = normal();
  std::vector<uint64_t> seeds, numbers;
  for (int64_t s = 0; s < batch; ++s) seeds.push_back(random_bits()() >> 1);
  for (int s = 0; s < streams; ++s) numbers.push_back(random_bits()() >> (s % 2 == 0 ? 1 : 50));
  std::vector<const void*> from;
  std::vector<void*> to;
  std::vector<DType> in_dtype, out_dtype;
  bool wide = false;
  for (auto& t : in) from.push_back(t.data()), in_dtype.push_back(t.dtype()), wide |= t.dtype() == DType::f64;
  for (int a = 0; a < n; ++a) {
    Tensor& t = in_place && a < k && n <= 4 ? in[size_t(a)] : out[size_t(a)];
    to.push_back(t.data()), out_dtype.push_back(t.dtype()), wide |= t.dtype() == DType::f64;
  }
  const bool alike = per_sample || streams > 0;  // whether samples are told apart
  engine::linear_combination({n, k, alike ? batch : 1, alike ? inner : batch * inner, c.data(),
                              per_sample ? n * columns : 0, from.data(), in_dtype.data(), to.data(), out_dtype.data(),
                              streams, seeds.data(), numbers.data()});
  for (int a = 0; a < n; ++a) {
    const Tensor& got = in_place && a < k && n <= 4 ? in[size_t(a)] : out[size_t(a)];
    for (int64_t i = 0; i < batch * inner; ++i) {
      const int64_t sample = i / inner, row = (per_sample ? sample * n : 0) + a;
      double sum = 0, magnitude = 0;
      for (int j = 0; j < columns; ++j) {
        const double x =
            j < k ? before[size_t(j)].at(i) : noise_at(seeds[size_t(sample)], numbers[size_t(j - k)], i % inner);
        const double term = c[size_t(row * columns + j)] * x;
        // Vector units and compilers evaluate the polynomials of the normals in their own ways.
        sum += term, magnitude += std::fabs(term) * (j < k ? 1 : 1 + 1e-6 / 0x1p-23 / (std::fabs(x) + 1e-9));
      }
      near("linear_combination", got, i, sum, magnitude, columns, wide && streams == 0);
    }
  }
}

// A broadcast operand: its elements, and how it repeats.
struct Shared {
  int64_t size, inner, repeats;
  int64_t at(int64_t i) const { return i / (inner * repeats) * inner + i % inner; }
};

Shared any_shared(int64_t outer, int64_t middle, int64_t row) {
  switch (below(4)) {
    case 0:
      return {outer * middle * row, outer * middle * row, 1};  // in full
    case 1:
      return {outer * row, row, middle};  // [outer, 1, row]
    case 2:
      return {outer * middle, 1, row};  // [outer, middle, 1]
    default:
      return {1, 1, outer * middle * row};
  }
}

// The driver on the CPU is not handed runs that are short: the bindings see to that.
bool worthwhile(const Shared& s, bool one_number) {
  return s.repeats == 1 || (s.inner == 1 ? one_number && s.repeats >= 16 : s.inner >= 16);
}

void gated_combination(int k, int64_t outer, int64_t middle, int64_t row, DType same, bool mixed, bool codes) {
  const int64_t total = outer * middle * row;
  std::vector<Tensor> in;
  std::vector<std::vector<float>> scales;
  for (int j = 0; j < k; ++j) {
    const bool code = codes && j > 0;
    in.emplace_back(code ? any_code() : mixed ? any_float() : same, total, any_offset());
    in.back().fill();
    scales.emplace_back();
    for (int64_t r = 0; code && r < outer * middle; ++r) scales.back().push_back(float(normal()));
  }
  std::vector<Tensor> others = operands(3, total, same, mixed);
  Tensor &residual = others[0], &out = others[1];
  const Shared shared = any_shared(outer, middle, row);
  if (!worthwhile(shared, true)) return;
  Tensor gate(others[2].dtype(), shared.size, any_offset());
  gate.fill();
  const bool has_gate = below(4) != 0, has_residual = below(4) != 0;
  std::vector<const void*> from;
  std::vector<DType> dtypes;
  std::vector<const float*> scale_pointers;
  std::vector<double> weights;
  bool wide = out.dtype() == DType::f64 || (has_gate && gate.dtype() == DType::f64) ||
              (has_residual && residual.dtype() == DType::f64);
  for (int j = 0; j < k; ++j) {
    from.push_back(in[size_t(j)].data()), dtypes.push_back(in[size_t(j)].dtype());
    scale_pointers.push_back(scales[size_t(j)].empty() ? nullptr : scales[size_t(j)].data());
    weights.push_back(normal());
    wide |= dtypes.back() == DType::f64;
  }
  engine::gated_combination({k, from.data(), dtypes.data(), scale_pointers.data(), weights.data(),
                             has_residual ? residual.data() : nullptr, residual.dtype(),
                             has_gate ? gate.data() : nullptr, gate.dtype(), out.data(), out.dtype(), total, row,
                             has_gate ? shared.inner : 1, has_gate ? shared.repeats : 1});
  for (int64_t i = 0; i < total; ++i) {
    double sum = 0, magnitude = 0;
    for (int j = 0; j < k; ++j) {
      const auto& s = scales[size_t(j)];
      const double term = weights[size_t(j)] * in[size_t(j)].at(i) * (s.empty() ? 1 : double(s[size_t(i / row)]));
      sum += term, magnitude += std::fabs(term);
    }
    const double g = has_gate ? gate.at(shared.at(i)) : 1, r = has_residual ? residual.at(i) : 0;
    near("gated_combination", out, i, g * sum + r, std::fabs(g) * magnitude + std::fabs(r), k + 4, wide);
  }
}

void blend(int64_t outer, int64_t middle, int64_t row, DType same, bool mixed) {
  const int64_t total = outer * middle * row;
  std::vector<Tensor> t = operands(4, total, same, mixed);
  const Shared shared = any_shared(outer, middle, row);
  if (!worthwhile(shared, false)) return;
  Tensor mask(mixed ? any_float() : same, shared.size, any_offset());
  mask.fill();
  const double alpha = normal(), sigma = normal();
  bool wide = mask.dtype() == DType::f64;
  for (auto& x : t) wide |= x.dtype() == DType::f64;
  engine::blend({{t[0].data(), t[1].data(), t[2].data(), mask.data()},
                 {t[0].dtype(), t[1].dtype(), t[2].dtype(), mask.dtype()},
                 t[3].data(),
                 t[3].dtype(),
                 total,
                 shared.inner,
                 shared.repeats,
                 alpha,
                 sigma});
  for (int64_t i = 0; i < total; ++i) {
    const double m = mask.at(shared.at(i)), x = t[0].at(i), image = alpha * t[1].at(i), noise = sigma * t[2].at(i);
    const double magnitude = std::fabs(m * x) + (1 + std::fabs(m)) * (std::fabs(image) + std::fabs(noise));
    near("blend", t[3], i, m * x + (1 - m) * (image + noise), magnitude, 6, wide);
  }
}

void relative_l1(int64_t size, DType a_dtype, DType b_dtype) {
  Tensor a(a_dtype, size, any_offset()), b(b_dtype, size, any_offset());
  a.fill(), b.fill();
  double difference = 0, sum = 0;
  for (int64_t i = 0; i < size; ++i) difference += std::fabs(a.at(i) - b.at(i)), sum += std::fabs(b.at(i));
  const double got = engine::relative_l1({a.data(), b.data(), a_dtype, b_dtype, size});
  holds(std::fabs(got - difference / sum) <= 1e-6 * difference / sum, "relative_l1 is wrong");
}

void ema_update(int count, int rates, DType same, bool mixed) {
  std::vector<Tensor> thetas, averages, before;
  std::vector<double> betas;
  std::vector<const void*> from;
  std::vector<void*> to;
  std::vector<DType> from_dtype, to_dtype;
  std::vector<int64_t> sizes;
  for (int r = 0; r < rates; ++r) betas.push_back(r % 5 == 4 ? 0 : r % 5 == 3 ? 1 : below(1000) / 1000.0);
  for (int t = 0; t < count; ++t) {
    thetas.emplace_back(mixed ? any_float() : same, below(8) == 0 ? 0 : any_size(), any_offset());
    thetas.back().fill();
    from.push_back(thetas.back().data()), from_dtype.push_back(thetas.back().dtype());
    sizes.push_back(thetas.back().size());
  }
  for (int i = 0; i < rates * count; ++i) {
    averages.emplace_back(mixed ? any_float() : same, sizes[size_t(i % count)], any_offset());
    averages.back().fill();
    before.emplace_back(averages.back().dtype(), averages.back().size(), 0);
    for (int64_t j = 0; j < averages.back().size(); ++j) before.back().set(j, averages.back().at(j));
    to.push_back(averages.back().data()), to_dtype.push_back(averages.back().dtype());
  }
  engine::ema_update(
      {count, rates, from.data(), from_dtype.data(), sizes.data(), to.data(), to_dtype.data(), betas.data()});
  for (int i = 0; i < rates * count; ++i) {
    const double beta = betas[size_t(i / count)];
    const Tensor &theta = thetas[size_t(i % count)], &e = before[size_t(i)], &got = averages[size_t(i)];
    for (int64_t j = 0; j < got.size(); ++j)
      near("ema_update", got, j, beta * e.at(j) + (1 - beta) * theta.at(j), std::fabs(e.at(j)) + std::fabs(theta.at(j)),
           3, theta.dtype() == DType::f64 || got.dtype() == DType::f64);
    if (beta == 1) holds(got.same_bits(e), "ema_update: a rate of 1 changed an average");
  }
}

void inner_products(int n, int k, int64_t batch, int64_t inner, DType same, bool mixed) {
  std::vector<Tensor> tensors;
  std::vector<const void*> pointers;
  std::vector<DType> dtypes;
  for (int i = 0; i < n + k; ++i) {
    dtypes.push_back(mixed ? any_float() : same);
    tensors.emplace_back(dtypes.back(), batch * inner, any_offset());
    tensors.back().fill();
  }
  for (Tensor& t : tensors) pointers.push_back(t.data());
  std::vector<double> sums(size_t(batch * n * k), NAN);
  if (!engine::inner_products(
          {n, k, batch, inner, pointers.data(), dtypes.data(), pointers.data() + n, dtypes.data() + n}, sums.data()))
    return;
  for (int64_t b = 0; b < batch; ++b)
    for (int i = 0; i < n; ++i)
      for (int j = 0; j < k; ++j) {
        double expected = 0, size = 0;
        for (int64_t e = b * inner; e < (b + 1) * inner; ++e) {
          const double product = tensors[size_t(i)].at(e) * tensors[size_t(n + j)].at(e);
          expected += product, size += std::fabs(product);
        }
        holds(std::fabs(sums[size_t((b * n + i) * k + j)] - expected) <= 1e-5 * size, "inner_products is wrong");
      }
}

void quantize(int64_t rows, int64_t width, DType x_dtype, DType minus_dtype, bool difference, DType code) {
  Tensor x(x_dtype, rows * width, any_offset()), minus(minus_dtype, rows * width, any_offset());
  x.fill(), minus.fill();
  if (rows > 2) {  // a row of zeros, and one that is not finite
    for (int64_t i = 0; i < width; ++i) x.set(i, 0), minus.set(i, 0);
    x.set(width + below(int(width)), below(2) != 0 ? INFINITY : NAN);
  }
  Tensor codes(code, rows * width, any_offset()), expected(code, rows * width, 0);
  std::vector<float> scales(static_cast<size_t>(rows), -1);
  engine::quantize({x.data(), difference ? minus.data() : nullptr, x_dtype, minus_dtype, codes.data(), code,
                    scales.data(), rows, width});
  for (int64_t r = 0; r < rows; ++r) {
    std::vector<float> v;
    float biggest = 0;
    bool finite = true;
    for (int64_t i = r * width; i < (r + 1) * width; ++i) {
      v.push_back(difference ? float(x.at(i)) - float(minus.at(i)) : float(x.at(i)));
      finite &= std::isfinite(v.back());
      biggest = std::max(biggest, std::fabs(v.back()));
    }
    const float scale = scale_of(biggest, finite, code), got = scales[size_t(r)];
    holds(got == scale || (got != got && scale != scale), "a scale is wrong");
    for (int64_t i = 0; i < width; ++i) {
      const float value = scale > 0 ? v[size_t(i)] / scale : 0;
      expected.set(r * width + i, code == DType::i8 ? std::nearbyint(value) : value);
    }
  }
  holds(codes.same_bits(expected), "codes are wrong");
}

void threshold(int64_t batch, int64_t inner, DType dtype, double limit, double ratio, int kind, bool in_place) {
  Tensor x(dtype, batch * inner, any_offset()), other(dtype, batch * inner, any_offset());
  x.fill(3);
  // Many equal ones; infinities; a NaN in the last sample.
  for (int64_t i = 0; kind == 1 && i < x.size(); ++i) x.set(i, std::min(std::max(x.at(i), -1.5), 1.5));
  for (int64_t i = 0; kind == 2 && i < x.size(); ++i) x.set(i, below(3) == 0 ? -INFINITY : x.at(i));
  if (kind == 3) x.set(x.size() - 1 - below(int(inner)), NAN);
  std::vector<double> values;
  for (int64_t i = 0; i < x.size(); ++i) values.push_back(x.at(i));
  Tensor& out = in_place ? x : other;
  engine::threshold({x.data(), out.data(), dtype, batch, inner, limit, ratio});
  for (int64_t b = 0; b < batch; ++b) {
    double s = limit;
    if (ratio > 0) {
      std::vector<double> sizes;
      bool nan = false;
      for (int64_t i = 0; i < inner; ++i) {
        sizes.push_back(std::fabs(values[size_t(b * inner + i)]));
        nan |= sizes.back() != sizes.back();
      }
      const double rank = ratio * double(inner - 1), low = std::floor(rank);
      if (!nan) std::sort(sizes.begin(), sizes.end());
      const double first = sizes[size_t(low)], second = sizes[size_t(std::min(int64_t(low) + 1, inner - 1))];
      const double q = first == second || rank == low ? first : first + (rank - low) * (second - first);
      s = nan ? NAN : std::min(std::max(q, 1.0), std::max(limit, 1.0));
    }
    for (int64_t i = b * inner; i < (b + 1) * inner; ++i) {
      if (s != s || values[size_t(i)] != values[size_t(i)]) {
        holds(out.at(i) != out.at(i), "threshold loses a NaN");
        continue;
      }
      const double kept = std::min(std::max(values[size_t(i)], -s), s);
      if (s == INFINITY && ratio > 0 && std::isinf(kept)) continue;  // infinity by infinity
      near("threshold", out, i, ratio > 0 ? kept / s : kept, ratio > 0 ? 1 : std::fabs(kept), 2, dtype == DType::f64);
    }
  }
}

// An operand of rows: absent at times, else of one type of kFloats or of any; an entry for each of some rows.
struct Rows {
  Tensor values;
  RowOperand operand;
  double at(int64_t row, int64_t i, int64_t width) const { return values.at(operand.entry(row) * width + i); }
  bool present() const { return operand.data != nullptr; }
  double at_or(double other, int64_t row, int64_t i, int64_t width) const {
    return present() ? at(row, i, width) : other;
  }
};

Rows any_rows(DType dtype, int64_t outer, int64_t middle, int64_t width, bool one, bool present) {
  const int way = one ? 0 : below(4);
  const int64_t inner = way == 0 || way == 1 ? 1 : way == 2 ? middle : outer * middle;
  const int64_t repeats = way == 0 ? outer * middle : way == 1 ? middle : way == 2 ? outer : 1;
  Tensor values(dtype, outer * middle / repeats * width, any_offset());
  values.fill();
  const RowOperand operand{present ? values.data() : nullptr, dtype, inner, repeats};
  return {std::move(values), operand};
}

void adaln(int64_t outer, int64_t middle, int64_t width, DType same, bool mixed, DType shared, bool branched) {
  const int64_t rows = outer * middle;
  std::vector<Tensor> t = operands(2, rows * width, same, mixed);
  Tensor &x = t[0], &branch = t[1];
  Tensor sum(x.dtype(), rows * width, any_offset()), out(x.dtype(), rows * width, any_offset());
  std::vector<Rows> shares;
  for (int j = 0; j < 5; ++j)
    shares.push_back(any_rows(mixed ? any_float() : shared, outer, middle, width, j > 2, below(4) != 0));
  Rows &gate = shares[0], &scale = shares[1], &shift = shares[2], &weight = shares[3], &bias = shares[4];
  bool wide = x.dtype() == DType::f64 || (branched && branch.dtype() == DType::f64);
  for (const Rows& s : shares) wide |= s.present() && s.operand.dtype == DType::f64;
  const bool rms = below(2) != 0;
  const double eps = 1e-3;
  AdaLN job{};
  job.x = x.data(), job.dtype = x.dtype(), job.out = out.data();
  if (branched) job.branch = branch.data(), job.branch_dtype = branch.dtype(), job.sum = sum.data();
  job.gate = gate.operand, job.scale = scale.operand, job.shift = shift.operand;
  job.weight = weight.operand, job.bias = bias.operand;
  job.rows = rows, job.width = width, job.rms = rms, job.eps = eps;
  engine::adaln(job);
  const Tensor& normed = branched ? sum : x;  // y is that of the sum as it was rounded
  for (int64_t r = 0; r < rows; ++r) {
    double mean = 0, squares = 0, biggest = 0;
    for (int64_t i = 0; i < width; ++i) {
      const int64_t at = r * width + i;
      if (branched) {
        const double product = branch.at(at) * gate.at_or(1, r, i, width);
        near("the sum with a branch", sum, at, x.at(at) + product, std::fabs(x.at(at)) + std::fabs(product), 2, wide);
      }
      mean += rms ? 0 : normed.at(at) / double(width);
      biggest = std::max(biggest, std::fabs(normed.at(at)));
    }
    for (int64_t i = 0; i < width; ++i) squares += std::pow(normed.at(r * width + i) - mean, 2);
    const double inverse = 1 / std::sqrt(squares / double(width) + eps);
    for (int64_t i = 0; i < width; ++i) {
      const double s = 1 + scale.at_or(0, r, i, width), w = weight.at_or(1, r, i, width);
      const double b = bias.at_or(0, r, i, width), offset = shift.at_or(0, r, i, width);
      const double y = (normed.at(r * width + i) - mean) * inverse;
      const double size = std::fabs(s) * (std::fabs(w) * (std::fabs(y) + biggest * inverse + 1) + std::fabs(b));
      const double off = std::fabs(w) * (std::fabs(y) + biggest * inverse);  // 1 + scale is rounded
      near("adaln", out, r * width + i, (y * w + b) * s + offset, size + std::fabs(offset) + off, 12, wide);
    }
  }
}

void norm_rope(int64_t batch, int64_t length, int64_t heads, int64_t width, DType same, bool mixed, DType shared,
               DType angles, bool neighbours) {
  const int64_t tokens = batch * length, all = heads * width;
  Tensor x(same, tokens * all, any_offset()), out(same, tokens * all, any_offset());
  x.fill();
  const bool across = heads > 1 && below(2) != 0, turns = below(4) != 0;
  const int64_t group = across ? all : width;
  const auto type_of = [&](DType dtype) { return mixed ? any_float() : dtype; };
  const Rows weight = any_rows(type_of(shared), 1, tokens, group, true, below(4) != 0);
  const bool own = below(2) != 0;  // angles of each sample
  const auto any_angles = [&](DType dtype) {
    Tensor values(dtype, (own ? tokens : length) * width, any_offset());
    values.fill();
    const RowOperand operand{turns ? values.data() : nullptr, dtype, own ? tokens : length, own ? 1 : batch};
    return Rows{std::move(values), operand};
  };
  const Rows cos = any_angles(type_of(angles)), sin = any_angles(type_of(angles));
  bool wide = same == DType::f64;
  for (const Rows* s : {&weight, &cos, &sin}) wide |= s->present() && s->operand.dtype == DType::f64;
  const double eps = 1e-3;
  engine::norm_rope({x.data(), same, out.data(), weight.operand, cos.operand, sin.operand, tokens, heads, width, across,
                     neighbours, eps});
  for (int64_t r = 0; r < tokens * all / group; ++r) {
    long double squares = 0;  // of so many terms that doubles would err by more than the kernel may
    for (int64_t i = r * group; i < (r + 1) * group; ++i) squares += x.at(i) * x.at(i);
    const double inverse = 1 / std::sqrt(double(squares) / double(group) + eps);
    const auto y = [&](int64_t i) { return x.at(r * group + i) * inverse * weight.at_or(1, 0, i, group); };
    const int64_t token = r * group / all;
    for (int64_t i = 0; i < group; ++i) {
      const int64_t e = i % width, half = width / 2;
      const bool second = neighbours ? e % 2 == 1 : e >= half;
      const int64_t other = i + (second ? -1 : 1) * (neighbours ? 1 : half);
      const double kept = y(i) * cos.at_or(1, token, e, width);
      const double brought = (second ? 1 : -1) * y(other) * sin.at_or(0, token, e, width);
      near("norm_rope", out, r * group + i, kept + brought, std::fabs(kept) + std::fabs(brought), 24, wide);
    }
  }
}

// Of widths that vectors take and of those that they do not, and of every way to keep a row.
void norms(DType same, bool mixed) {
  const int64_t long_widths[] = {264, 1000, 2048, 2056, 4160, 9000};
  const DType shared = below(2) != 0 ? same : DType::f32, angles = below(2) != 0 ? same : DType::f32;
  const bool half = below(2) != 0;
  aligned = below(4) != 0;
  adaln(1 + below(3), 1 + below(4), any_size(), same, mixed, shared, half);
  adaln(1 + below(3), 1 + below(20), 8 * (1 + below(40)), same, mixed, shared, !half);
  adaln(1 + below(2), 1 + below(2), long_widths[below(6)], same, mixed, shared, half);
  norm_rope(1 + below(2), 1 + below(3), 1 + below(3), 2 * (1 + below(40)), same, mixed, shared, angles, half);
  norm_rope(1 + below(2), 1 + below(5), 1 + below(4), 16 * (1 + below(16)), same, mixed, shared, angles, !half);
  norm_rope(1, 1 + below(2), 1 + below(70), below(2) != 0 ? 72 : 128, same, mixed, shared, angles, half);
  aligned = false;
}

void everything(int rounds) {
  for (int round = 0; round < rounds; ++round) {
    const DType same = kFloats[round % 4];
    const bool mixed = round % 3 == 0;
    linear_combination(1 + below(6), 1 + below(6), 0, 1, any_size(), false, same, mixed, round % 2 == 0);
    linear_combination(1 + below(3), 1 + below(4), 0, 1 + below(5), any_size(), true, same, mixed, round % 2 == 0);
    linear_combination(below(3), 1 + below(3), 1 + below(2), 1 + below(3), any_size(), round % 2 == 0, same, mixed,
                       false);
    gated_combination(1 + below(4), 1 + below(3), 1 + below(4), 1 + any_size() / 4, same, mixed, round % 2 == 0);
    gated_combination(1 + below(4), 1 + below(2), 1 + below(3), 8 * (1 + below(40)), same, mixed, round % 2 == 0);
    blend(1 + below(3), 1 + below(4), round % 2 == 0 ? 8 * (1 + below(40)) : 1 + any_size() / 4, same, mixed);
    relative_l1(any_size() * (1 + below(3)), same, mixed ? any_float() : same);
    ema_update(1 + below(9), 1 + below(4), same, mixed);
    inner_products(1 + below(3), 1 + below(7), 1 + below(3), any_size(), same, mixed);
    const DType floats[] = {DType::f32, DType::bf16, DType::f16};
    quantize(1 + below(5), round % 2 == 0 ? any_size() : 8 * (1 + below(200)), floats[below(3)], floats[below(3)],
             round % 2 == 0, any_code());
    for (const DType dtype : kFloats) norms(dtype, below(5) == 0);
    threshold(1 + below(3), any_size(), same, 0.5 + below(3), 0, round % 4, round % 2 == 0);
    const double limit = below(3) == 0 ? INFINITY : 0.5 + below(3);
    threshold(1 + below(3), any_size(), same, limit, (1 + below(998)) / 1000.0, below(4), round % 2 == 0);
  }
  // As much as a launch has room for, and what takes several.
  linear_combination(60, 4, 4, 2, 257, false, DType::bf16, false, true);
  linear_combination(3, 2, 2, 70, 16, false, DType::f32, false, false);
  linear_combination(30, 4, 0, 9, 40, true, DType::f32, true, false);
  gated_combination(64, 2, 3, 40, DType::bf16, true, true);
  threshold(2, 40000, DType::f32, 100, 0.995, 0, false);
  for (const DType dtype : kFloats)
    threshold(3, 31, dtype, 100, 0.9, 0, false);  // far from one order statistic to the next
  relative_l1(100003, DType::bf16, DType::f32);
  ema_update(40, 2, DType::f32, false);
  ema_update(5, 15, DType::bf16, true);
  inner_products(2, 3, 2, 40001, DType::f32, false);
}

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? atoi(argv[1]) : 8;
  for (const std::string& variant : engine::variants()) {
    engine::use(variant);
    everything(rounds);
    if (failures > 0) return printf("%d failures: %s\n", failures, variant.c_str()), 1;
  }
  printf("right\n");
  return 0;
}
