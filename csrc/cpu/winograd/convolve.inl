// The convolution and the transposed convolution.

constexpr int64_t kBlockBytes = int64_t{1} << 19;  // size of the planes of a block of one thread: half of an L2 cache
constexpr int64_t kMinTiles = 6;                   // tiles of such a block, at least
constexpr int64_t kBlockMultiple = 8;              // so that each of 2, 4 or 8 threads gets the same number of blocks
constexpr int64_t kMaxSharedTiles = 128;           // tiles of a block on which all threads work
constexpr int64_t kPlaneCost = 16;  // of a byte of such a block's planes, where a byte of a filter costs 1

// The blocks into which convolve() divides the tiles. They change no bit of the result. One thread computes a block,
// whose planes stay in its L2 cache; it reads the whole filter from a farther one. If the filter is so large that this
// costs more than planes that leave the L2 cache, blocks are larger, and all threads work on one. They also do so if
// there are too few blocks for many threads.
struct Blocks {
  int64_t count;
  bool for_one_thread;

  Blocks(int64_t tiles, int64_t tile_bytes, int64_t filter_bytes) {
    const int64_t small = divided_up(tiles, std::max(kBlockBytes / tile_bytes, kMinTiles));
    const int64_t large = divided_up(tiles, kMaxSharedTiles);
    for_one_thread =
        small >= kBlockMultiple && small * filter_bytes < large * filter_bytes + kPlaneCost * tiles * tile_bytes;
    count = for_one_thread ? round_up(small, kBlockMultiple) : large;
  }
};

// The convolution: the windows that convolve() reads and writes for a tile.
template <typename F_>
struct Forward {
  using F = F_;
  using InputTransform = typename F::InputTransform;
  using OutputTransform = typename F::OutputTransform;
  static constexpr bool kTransposed = false;
  static Tiles tiles(const ConvShape& s) { return Tiles(s.batch, s.small_height, s.small_width, F::kTile); }
  static Window in(const ConvShape& s, int64_t image, int64_t row, int64_t column) {
    return large_window(s, image, F::kStride * row - s.padding, F::kStride * column - s.padding);
  }
  static Window out(const ConvShape& s, int64_t image, int64_t row, int64_t column) {
    return small_window(s, image, row, column);
  }
};

// The transposed convolution, where R = padding mod stride.
template <typename F_, int R>
struct Transposed {
  using F = F_;
  using InputTransform = typename F::template TransposedInputTransform<R>;
  using OutputTransform = typename F::template TransposedOutputTransform<R>;
  static constexpr bool kTransposed = true;
  static Tiles tiles(const ConvShape& s) {
    return Tiles(s.batch, s.large_height, s.large_width, int64_t{F::kStride} * F::kTile);
  }
  static Window in(const ConvShape& s, int64_t image, int64_t row, int64_t column) {
    const int64_t begin = s.padding / F::kStride + InputTransform::kBegin;
    return small_window(s, image, row / F::kStride + begin, column / F::kStride + begin);
  }
  static Window out(const ConvShape& s, int64_t image, int64_t row, int64_t column) {
    return large_window(s, image, row, column);
  }
};

// Direction is Forward or Transposed.
template <typename Direction>
void convolve(const ConvShape& s, Values in, const float* filter, const float* bias, float slope, MutableValues out,
              ParallelFor parallel_for) {
  constexpr int64_t kPlanes = Filter<typename Direction::F>::kPlanes;
  const Filter<typename Direction::F> f(s.small_channels, s.large_channels, Direction::kTransposed);
  const Tiles tiles = Direction::tiles(s);
  const int64_t in_row = round_up(f.depth, kLanes<float>), out_row = f.panels * kPanel;
  const Blocks blocks(tiles.count, kPlanes * 4 * (in_row + out_row), kPlanes * 4 * f.plane);
  const int64_t per_block = divided_up(tiles.count, blocks.count);
  const int64_t in_plane = plane_size(per_block, in_row), out_plane = plane_size(per_block, out_row);
  parallel(blocks.for_one_thread ? parallel_for : &serially, blocks.count, 1, [&](int64_t begin, int64_t end) {
    const ParallelFor in_block = blocks.for_one_thread ? &serially : parallel_for;
    const Scratch scratch(kPlanes * (in_plane + out_plane));
    float* const ins = scratch.data();
    float* const outs = ins + kPlanes * in_plane;
    for (int64_t b = begin; b < end; ++b) {
      const int64_t first = tiles.count * b / blocks.count;
      const int64_t count = tiles.count * (b + 1) / blocks.count - first;
      parallel(in_block, count, 4, [&](int64_t from, int64_t to) {
        for (int64_t t = from; t < to; ++t) {
          const Window window = Direction::in(s, tiles.image(first + t), tiles.row(first + t), tiles.column(first + t));
          input_transform<typename Direction::InputTransform>(in, window, ins + t * in_row, in_plane, {in_row, 0});
        }
      });
      parallel(in_block, kPlanes * f.panels, 1, [&](int64_t from, int64_t to) {
        for (int64_t task = from; task < to; ++task) {
          const int64_t p = task / f.panels, panel = task % f.panels;
          multiply_rows<false>(count, ins + p * in_plane, in_row, 1, filter + p * f.plane + panel * f.depth * kPanel,
                               kPanel, f.depth, outs + p * out_plane + panel * kPanel, out_row);
        }
      });
      parallel(in_block, count, 4, [&](int64_t from, int64_t to) {
        for (int64_t t = from; t < to; ++t) {
          const Window window =
              Direction::out(s, tiles.image(first + t), tiles.row(first + t), tiles.column(first + t));
          output_transform<typename Direction::OutputTransform>(outs + t * out_row, out_plane, bias, slope, out,
                                                                window);
        }
      });
    }
  });
}

// Finds R = padding mod stride, which has to be a template argument.
template <typename F, int R = 0>
void convolve_transposed(const ConvShape& s, Values small, const float* filter, const float* bias, float slope,
                         MutableValues large, ParallelFor parallel_for) {
  if constexpr (R + 1 < F::kStride)
    if (s.padding % F::kStride != R)
      return convolve_transposed<F, R + 1>(s, small, filter, bias, slope, large, parallel_for);
  convolve<Transposed<F, R>>(s, small, filter, bias, slope, large, parallel_for);
}
