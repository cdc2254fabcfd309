// The gradient of the weights.

constexpr int64_t kGradientBytes = int64_t{3} << 20;  // size of the planes of a block of tiles

template <typename F>
void weight_gradient(const ConvShape& s, const FilterStrides& strides, const float* large, const float* small,
                     float* gradient, ParallelFor parallel_for) {
  constexpr int64_t kPlanes = Filter<F>::kPlanes;
  constexpr int kTaps = F::kKernel * F::kKernel;
  const Tiles tiles = Forward<F>::tiles(s);
  const int64_t panels = (s.small_channels + kPanel - 1) / kPanel;
  const int64_t large_row = round_up(s.large_channels, kLanes<float>), small_row = panels * kPanel;
  const int64_t most = std::max<int64_t>(kGradientBytes / (kPlanes * 4 * (large_row + small_row)), 32);
  const int64_t blocks = (tiles.count + most - 1) / most, per_block = (tiles.count + blocks - 1) / blocks;
  const int64_t large_plane = plane_size(per_block, large_row), small_plane = plane_size(per_block, small_row),
                sum_plane = plane_size(s.large_channels, small_row);
  const Scratch scratch(kPlanes * (large_plane + small_plane + sum_plane));
  float* const larges = scratch.data();
  float* const smalls = larges + kPlanes * large_plane;
  float* const sums = smalls + kPlanes * small_plane;
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t first = tiles.count * b / blocks, count = tiles.count * (b + 1) / blocks - first;
    parallel(parallel_for, count, 4, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        const int64_t image = tiles.image(first + t), row = tiles.row(first + t), column = tiles.column(first + t);
        input_transform<typename F::InputTransform>(large, Forward<F>::in(s, image, row, column),
                                                    larges + t * large_row, large_plane);
        input_transform<typename F::OutputGradientTransform>(small, Forward<F>::out(s, image, row, column),
                                                             smalls + t * small_row, small_plane);
      }
    });
    parallel(parallel_for, kPlanes * panels, 1, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t p = task / panels, column = task % panels * kPanel;
        const auto product = b == 0 ? &multiply_rows<false> : &multiply_rows<true>;
        product(s.large_channels, larges + p * large_plane, 1, large_row, smalls + p * small_plane + column, small_row,
                count, sums + p * sum_plane + column, small_row);
      }
    });
  }
  parallel(parallel_for, panels * s.large_channels, 64, [&](int64_t begin, int64_t end) {
    float taps[kTaps][kPanel];
    for (int64_t task = begin; task < end; ++task) {
      const int64_t channel = task / panels, first = task % panels * kPanel;
      for (int64_t vector = 0; vector < kPanel; vector += kLanes<float>) {
        const float* from = sums + channel * small_row + first + vector;
        transform_2d<typename F::FilterGradientTransform>(
            [&](int row, int column)
                IGAN_FAST_INLINE_LAMBDA { return load(from + (F::kProducts * row + column) * sum_plane); },
            [&](int row, int column, V v)
                IGAN_FAST_INLINE_LAMBDA { store<false>(&taps[F::kKernel * row + column][vector], v); });
      }
      const int64_t lanes = std::min(kPanel, s.small_channels - first);
      for (int64_t lane = 0; lane < lanes; ++lane) {
        float* to = gradient + channel * strides.large + (first + lane) * strides.small;
        for (int64_t tap = 0; tap < kTaps; ++tap)
          to[tap / F::kKernel * strides.row + tap % F::kKernel * strides.column] = taps[tap][lane];
      }
    }
  });
}
