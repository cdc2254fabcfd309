// transpose against its definition, at sizes around its squares and cache
// lines.

#include "cpu/transpose/kernels.h"

#include "testing.h"

using namespace igan_fast::cpu;

int main() {
  const int64_t sides[] = {1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 20, 33, 64, 70};
  Random random{1};
  for (const int64_t batch : {1, 3})
    for (const int64_t rows : sides)
      for (const int64_t columns : sides)
        for (const ParallelFor run : {&in_one_piece, &on_threads}) {
          const int64_t count = batch * rows * columns;
          std::vector<float> in(static_cast<size_t>(count)),
              out(static_cast<size_t>(count), NAN);
          for (float &value : in)
            value = static_cast<float>(random());
          transpose(batch, rows, columns, in.data(), out.data(), run);
          int64_t wrong = 0;
          for (int64_t n = 0; n < batch; ++n)
            for (int64_t r = 0; r < rows; ++r)
              for (int64_t c = 0; c < columns; ++c)
                wrong +=
                    out[static_cast<size_t>((n * columns + c) * rows + r)] !=
                    in[static_cast<size_t>((n * rows + r) * columns + c)];
          CHECK(wrong == 0, "(%d, %d, %d): %d wrong", int(batch), int(rows),
                int(columns), int(wrong));
        }
  return failures != 0;
}
