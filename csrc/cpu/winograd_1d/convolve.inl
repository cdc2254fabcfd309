// The convolution.

constexpr int64_t kBlockBytes = int64_t{3} << 18;  // size of the planes of a block of one thread: of an L2 cache
constexpr int64_t kMaxColumns = 256;               // of such a block
constexpr int64_t kMaxSharedColumns = 512;         // columns of a block on which all threads work
constexpr int64_t kMinBlocks = 8;                  // with fewer panels of columns, threads share them

// The blocks into which convolve() divides the columns. They change no bit of the result. One thread computes a block,
// whose planes stay in its L2 cache; all threads work on one if there are too few.
struct Blocks {
  int64_t columns, count;
  bool for_one_thread;

  Blocks(int64_t all, int64_t column_bytes) {
    constexpr int64_t L = kLanes<float>;
    const int64_t most = std::clamp(kBlockBytes / column_bytes / kPanel * kPanel, kPanel, kMaxColumns);
    for_one_thread = divided_up(all, kPanel) >= kMinBlocks;
    const int64_t blocks =
        for_one_thread ? std::max(divided_up(all, most), kMinBlocks) : divided_up(all, kMaxSharedColumns);
    columns = round_up(divided_up(all, blocks), for_one_thread ? kPanel : L);
    count = divided_up(all, columns);
  }
};

template <typename F>
void convolve(const Layer& layer, int64_t group, const float* ins_of_all, const float* filters, const float* bias,
              float slope, float* outs_of_all, ParallelFor parallel_for) {
  constexpr int64_t L = kLanes<float>;
  const Filter<F> f(layer);
  const Columns columns(layer);
  const float *const in = ins_of_all + group * layer.in.group, *const filter = filters + group * f.size();
  float* const out = outs_of_all + group * layer.out.group;
  const int64_t first_bias = group * f.out_channels / layer.out.stride;
  const Blocks blocks(columns.count, F::kProducts * 4 * (f.in_channels + f.out_channels));
  const int64_t read = blocks.columns + f.parts - 1;  // of the input's planes
  const int64_t in_row = row_size(read), out_row = row_size(blocks.columns);
  const int64_t in_plane = plane_size(f.in_channels, in_row), out_plane = plane_size(f.out_channels, out_row);
  parallel(blocks.for_one_thread ? parallel_for : &serially, blocks.count, 1, [&](int64_t begin, int64_t end) {
    const ParallelFor in_block = blocks.for_one_thread ? &serially : parallel_for;
    const Scratch scratch(F::kProducts * (in_plane + out_plane));
    float* const ins = scratch.data();
    float* const outs = ins + F::kProducts * in_plane;
    for (int64_t block = begin; block < end; ++block) {
      const int64_t first = block * blocks.columns;
      const int64_t count = round_up(std::min(blocks.columns, columns.count - first), L);
      parallel(in_block, f.in_channels, 4, [&](int64_t from, int64_t to) {
        const Scratch values(kTile * (in_row + 1));
        for (int64_t c = from; c < to; ++c)
          input_transform<F>(layer, columns, in, c, first, count + f.parts - 1, values.data(), ins + c * in_row,
                             in_plane);
      });
      parallel(in_block, F::kProducts * f.panels, 1, [&](int64_t from, int64_t to) {
        for (int64_t task = from; task < to; ++task) {
          const int64_t p = task / f.panels, panel = task % f.panels;
          for (int64_t column = 0; column < count; column += kPanel)
            for (int64_t part = 0; part < f.parts; ++part) {
              multiply_rows_of(part > 0, column + L < count)(
                  f.rows(panel), filter + p * f.plane + panel * f.panel + part * f.in_channels * kRows, 1, kRows,
                  ins + p * in_plane + column + part, in_row, f.in_channels,
                  outs + p * out_plane + panel * kRows * out_row + column, out_row);
            }
        }
      });
      parallel(in_block, f.out_channels, 4, [&](int64_t from, int64_t to) {
        const Scratch values(kTile * out_row);
        for (int64_t c = from; c < to; ++c) {
          const float* sums = outs + c * out_row;
          const V added = broadcast(bias ? bias[first_bias + layer.out.memory_channel(c)] : 0.f);
          for (int64_t column = 0; column < count; column += L) {
            V y[kTile];
            times(
                F::output, [&](int p) IGAN_FAST_INLINE_LAMBDA { return load(sums + p * out_plane + column); },
                [&](int r, V sum) IGAN_FAST_INLINE_LAMBDA { y[r] = activate(sum + added, slope); });
            store_tiles(values.data() + kTile * column, y);
          }
          write_columns(columns, first, count, layer.out, c, values.data(), out);
        }
      });
    }
  });
}
