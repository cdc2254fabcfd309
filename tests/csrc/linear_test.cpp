// Linear layers with few rows against plain loops in double, for every
// instruction set and type.

#include "cpu/linear/kernels.h"

#include "testing.h"

using namespace igan_fast::cpu;

namespace {

template <typename T> void one(Isa isa, int64_t inputs, int64_t outputs) {
  Random random{static_cast<uint64_t>(inputs * 100 + outputs)};
  const auto values = [&](int64_t count) {
    std::vector<T> made(static_cast<size_t>(count));
    for (T &value : made)
      value = from_double<T>(random());
    return made;
  };
  const auto weight = values(outputs * inputs), bias = values(outputs);
  for (int64_t rows = 1; rows <= kMaxRows; ++rows)
    for (const bool with_bias : {true, false}) {
      const auto x = values(rows * inputs);
      const size_t count = static_cast<size_t>(rows * outputs);
      auto y = unwritten<T>(count), again = unwritten<T>(count);
      FewRows call{rows,
                   inputs,
                   outputs,
                   dtype_of<T>(),
                   x.data(),
                   weight.data(),
                   with_bias ? bias.data() : nullptr,
                   y.data()};
      few_rows_kernel(isa)(call, &in_one_piece);
      call.y = again.data();
      few_rows_kernel(isa)(call, &on_threads);
      double error = 0;
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t o = 0; o < outputs; ++o) {
          const auto at = [](const std::vector<T> &all, int64_t index) {
            return static_cast<double>(
                to_float(all[static_cast<size_t>(index)]));
          };
          double sum = with_bias ? at(bias, o) : 0, size = std::fabs(sum);
          for (int64_t i = 0; i < inputs; ++i) {
            const double product =
                at(x, r * inputs + i) * at(weight, o * inputs + i);
            sum += product, size += std::fabs(product);
          }
          error = worse(error, std::fabs(at(y, r * outputs + o) - sum) /
                                   std::max(size, 1.0));
        }
      CHECK(error < tolerance<T>() / 2, "%s, (%d, %d) to %d: error %g",
            name_of(isa), int(rows), int(inputs), int(outputs), error);
      CHECK(count == 0 ||
                std::memcmp(y.data(), again.data(), count * sizeof(T)) == 0,
            "%s, (%d, %d) to %d: other bits on threads", name_of(isa),
            int(rows), int(inputs), int(outputs));
    }
}

} // namespace

int main() {
  return for_every_isa([](Isa isa) {
    for (const int64_t inputs : {0, 1, 3, 15, 16, 17, 140, 515})
      for (const int64_t outputs : {0, 1, 2, 3, 4, 5, 7, 130}) {
        one<float>(isa, inputs, outputs);
        one<BFloat16>(isa, inputs, outputs);
        one<Half>(isa, inputs, outputs);
      }
    one<float>(isa, 1030, 301); // for more than one thread
    one<BFloat16>(isa, 1030, 301);
  });
}
