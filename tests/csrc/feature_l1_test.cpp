// feature_l1's CPU kernels against loops in double, on buffers of exactly the
// size that they may touch, and the bytes of its sign mask.

#include <memory>

#include "cpu/feature_l1/kernels.h"

#include "testing.h"

using namespace igan_fast;
using namespace igan_fast::cpu;

namespace {

template <typename T> std::vector<T> values(int64_t count, uint64_t seed) {
  Random random{seed};
  std::vector<T> result(static_cast<size_t>(count));
  for (T &value : result)
    value = from_double<T>(random());
  return result;
}

template <typename T> void pairs_of_several_sizes(Isa isa) {
  const int64_t sizes[] = {1,  2,    15,    16,    17,    63, 64,
                           65, 1000, 16384, 16385, 40001, 0};
  std::vector<std::vector<T>> fakes, reals;
  std::vector<std::vector<uint8_t>> masks;
  std::vector<Pair> pairs;
  for (const int64_t size : sizes) {
    fakes.push_back(values<T>(size, 1));
    reals.push_back(values<T>(size, 2));
    masks.push_back(unwritten<uint8_t>(static_cast<size_t>(mask_bytes(size))));
  }
  for (size_t i = 0; i < fakes.size(); ++i) {
    Pair pair{};
    pair.fake = {fakes[i].data(), dtype_of<T>(), true, {}};
    pair.real = {reals[i].data(), dtype_of<T>(), true, {}};
    pair.numel = sizes[i];
    pair.sign_mask = masks[i].data();
    pairs.push_back(pair);
  }
  std::vector<double> sums = unwritten<double>(pairs.size()), again = sums;
  feature_l1_kernels(isa).forward(pairs.data(),
                                  static_cast<int64_t>(pairs.size()),
                                  sums.data(), &on_threads);
  for (Pair &pair : pairs)
    pair.sign_mask = nullptr;
  feature_l1_kernels(isa).forward(pairs.data(),
                                  static_cast<int64_t>(pairs.size()),
                                  again.data(), &in_one_piece);

  for (size_t i = 0; i < pairs.size(); ++i) {
    double expected = 0;
    for (size_t k = 0; k < fakes[i].size(); ++k)
      expected += std::abs(static_cast<double>(to_float(fakes[i][k])) -
                           static_cast<double>(to_float(reals[i][k])));
    CHECK(std::abs(sums[i] - expected) <= 1e-6 * expected,
          "%s, %zu values: %g for %g", name_of(isa), fakes[i].size(), sums[i],
          expected);
    CHECK(sums[i] == again[i], "%s: other bits with other threads",
          name_of(isa));
    std::vector<T> out = unwritten<T>(fakes[i].size());
    const SignedFill fill{out.data(), dtype_of<T>(), sizes[i], masks[i].data(),
                          -0.375};
    feature_l1_kernels(isa).backward(&fill, 1, &on_threads);
    for (size_t k = 0; k < out.size(); ++k) {
      const double difference = static_cast<double>(to_float(fakes[i][k])) -
                                static_cast<double>(to_float(reals[i][k]));
      const double sign = (difference > 0) - (difference < 0);
      CHECK(static_cast<double>(to_float(out[k])) == -0.375 * sign,
            "%s, value %zu of %zu", name_of(isa), k, out.size());
    }
  }
}

// The example of ops/feature_l1/pair.h.
void bytes_of_the_sign_mask(Isa isa) {
  std::vector<float> fake(64), real(64);
  fake[0] = 0.5f, fake[1] = -2, fake[9] = 3;
  std::vector<uint8_t> mask = unwritten<uint8_t>(16), expected(16);
  expected[0] = 1, expected[1] = 2, expected[8] = 2;
  Pair pair{};
  pair.fake = {fake.data(), Dtype::Float, true, {}};
  pair.real = {real.data(), Dtype::Float, true, {}};
  pair.numel = 64;
  pair.sign_mask = mask.data();
  double sum = 0;
  feature_l1_kernels(isa).forward(&pair, 1, &sum, &in_one_piece);
  CHECK(mask == expected && sum == 5.5, "%s: sum %g", name_of(isa), sum);
}

// A transposed tensor against a contiguous one, and one dtype against another.
template <typename T> void differing_layouts(Isa isa) {
  constexpr int64_t kRows = 37, kColumns = 53;
  const auto fake = values<float>(kRows * kColumns, 3);
  const auto real = values<T>(kRows * kColumns, 4);
  std::vector<uint8_t> mask =
      unwritten<uint8_t>(static_cast<size_t>(mask_bytes(kRows * kColumns)));
  Pair pair{};
  pair.fake = {fake.data(), Dtype::Float, true, {kColumns, 1}};
  pair.real = {real.data(), dtype_of<T>(), false, {1, kRows}};
  pair.ndim = 2;
  pair.sizes[0] = kRows;
  pair.sizes[1] = kColumns;
  pair.numel = kRows * kColumns;
  pair.sign_mask = mask.data();
  double sum = 0, expected = 0;
  feature_l1_kernels(isa).forward(&pair, 1, &sum, &on_threads);
  std::vector<float> out = unwritten<float>(fake.size());
  const SignedFill fill{out.data(), Dtype::Float, pair.numel, mask.data(), 1};
  feature_l1_kernels(isa).backward(&fill, 1, &in_one_piece);
  for (int64_t row = 0; row < kRows; ++row)
    for (int64_t column = 0; column < kColumns; ++column) {
      const size_t at = static_cast<size_t>(row * kColumns + column);
      const double difference =
          static_cast<double>(fake[at]) -
          static_cast<double>(
              to_float(real[static_cast<size_t>(column * kRows + row)]));
      expected += std::abs(difference);
      CHECK(out[at] == (difference > 0) - (difference < 0),
            "%s, row %ld, column %ld", name_of(isa), long(row), long(column));
    }
  CHECK(std::abs(sum - expected) <= 1e-6 * expected, "%s: %g for %g",
        name_of(isa), sum, expected);
}

} // namespace

int main() {
  return for_every_isa([](Isa isa) {
    pairs_of_several_sizes<Half>(isa);
    pairs_of_several_sizes<BFloat16>(isa);
    pairs_of_several_sizes<float>(isa);
    pairs_of_several_sizes<double>(isa);
    bytes_of_the_sign_mask(isa);
    differing_layouts<float>(isa);
    differing_layouts<BFloat16>(isa);
    differing_layouts<double>(isa);
  });
}
