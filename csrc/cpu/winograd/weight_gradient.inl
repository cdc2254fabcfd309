// The gradient of the weights.

constexpr int64_t kSumBytes = int64_t{8} << 20;                 // sums of this size stay in the caches between blocks
constexpr int64_t kBlockBytesForSmallSums = int64_t{3} << 20;   // size of the planes of a block of tiles
constexpr int64_t kBlockBytesForLargeSums = int64_t{24} << 20;  // the same if the sums are larger than kSumBytes
constexpr int64_t kMinParts = 16;                               // enough work for many threads
constexpr int64_t kMaxSlice = 64;                               // channels of the large feature map in a slice

// The gradient of a transformed filter is computed in parts: a slice of the channels of the large feature map, and a
// panel of those of the small one. A part's sums are kPlanes matrices (slice, kPanel), one after the other.
template <typename F>
struct WeightGradient {
  static constexpr int64_t kPlanes = Filter<F>::kPlanes;
  const ConvShape& s;
  const Tiles tiles;
  const int64_t panels, slices, slice, parts;
  const int64_t sum_plane, sum_part;  // the distance of a part's matrices and of the parts, in floats
  const int64_t blocks, per_block;    // of tiles
  const int64_t large_plane, small_plane;
  const Strips large_strips, small_strips;

  explicit WeightGradient(const ConvShape& shape)
      : s(shape),
        tiles(Forward<F>::tiles(s)),
        panels(divided_up(s.small_channels, kPanel)),
        slices(divided_up(s.large_channels, kMaxSlice)),
        slice(round_up(divided_up(s.large_channels, slices), kLanes<float>)),
        parts(panels * slices),
        sum_plane(slice * kPanel + 16),  // no power of two, as in plane_size
        sum_part(kPlanes * sum_plane),
        blocks(divided_up(tiles.count, most_tiles())),
        per_block(divided_up(tiles.count, blocks)),
        large_plane(plane_size(per_block, slices * slice)),
        small_plane(plane_size(per_block, panels * kPanel)),
        large_strips{slice, per_block * slice},
        small_strips{kPanel, per_block * kPanel} {}

  // The tiles of a block. The sums are read and written for each block, so blocks are larger if the sums are.
  int64_t most_tiles() const {
    const int64_t tile_bytes = kPlanes * 4 * (slices * slice + panels * kPanel);
    if (parts * sum_part * 4 <= kSumBytes) return std::max<int64_t>(kBlockBytesForSmallSums / tile_bytes, 32);
    return std::max<int64_t>(kBlockBytesForLargeSums / tile_bytes, 64);
  }

  void transform(int64_t tile, int64_t row_in_block, Values large, Values small, float* larges, float* smalls) const {
    const int64_t image = tiles.image(tile), row = tiles.row(tile), column = tiles.column(tile);
    input_transform<typename F::InputTransform>(large, Forward<F>::in(s, image, row, column),
                                                larges + row_in_block * slice, large_plane, large_strips);
    input_transform<typename F::OutputGradientTransform>(small, Forward<F>::out(s, image, row, column),
                                                         smalls + row_in_block * kPanel, small_plane, small_strips);
  }

  int64_t first_large(int64_t part) const { return part / panels * slice; }
  int64_t first_small(int64_t part) const { return part % panels * kPanel; }
  int64_t rows(int64_t part) const { return std::min(slice, s.large_channels - first_large(part)); }

  // Plane p of a part: the products of `count` tiles, added to the sums unless they are the first.
  void multiply(int64_t part, int64_t p, int64_t count, const float* larges, const float* smalls, bool first,
                float* sums) const {
    const MultiplyRows product = multiply_rows_of(!first, true);
    product(rows(part), larges + p * large_plane + part / panels * large_strips.distance, 1, slice,
            smalls + p * small_plane + part % panels * small_strips.distance, kPanel, count, sums + p * sum_plane,
            kPanel);
  }

  // The weights' gradient for one channel of a part's slice.
  void finish(int64_t part, int64_t row_of_slice, const float* sums, const FilterStrides& strides,
              MutableValues gradient) const {
    constexpr int kTaps = F::kKernel * F::kKernel;
    float taps[kTaps][kPanel];
    for (int64_t vector = 0; vector < kPanel; vector += kLanes<float>) {
      const float* from = sums + row_of_slice * kPanel + vector;
      transform_2d<typename F::FilterGradientTransform>(
          [&](int row, int column)
              IGAN_FAST_INLINE_LAMBDA { return load(from + (F::kProducts * row + column) * sum_plane); },
          [&](int row, int column, V v)
              IGAN_FAST_INLINE_LAMBDA { store<false>(&taps[F::kKernel * row + column][vector], v); });
    }
    const int64_t lanes = std::min(kPanel, s.small_channels - first_small(part));
    const int64_t first = (first_large(part) + row_of_slice) * strides.large + first_small(part) * strides.small;
    const auto write = [&](auto to) {
      using T = std::remove_pointer_t<decltype(to)>;
      for (int64_t lane = 0; lane < lanes; ++lane)
        for (int64_t tap = 0; tap < kTaps; ++tap)
          to[lane * strides.small + tap / F::kKernel * strides.row + tap % F::kKernel * strides.column] =
              from_float<T>(taps[tap][lane]);
    };
    gradient.dtype == Dtype::Float ? with_address<true>(gradient, first, write)
                                   : with_address<false>(gradient, first, write);
  }
};

template <typename F>
void weight_gradient(const ConvShape& s, const FilterStrides& strides, Values large, Values small,
                     MutableValues gradient, ParallelFor parallel_for) {
  const WeightGradient<F> w(s);
  // With one block, a part's sums are needed only until it is finished. They then stay in the caches of its thread.
  const bool part_by_part = w.blocks == 1 && w.parts >= kMinParts;
  const Scratch planes(w.kPlanes * (w.large_plane + w.small_plane)), all_sums(part_by_part ? 0 : w.parts * w.sum_part);
  float* const larges = planes.data();
  float* const smalls = larges + w.kPlanes * w.large_plane;
  for (int64_t b = 0; b < w.blocks; ++b) {
    const int64_t first = w.tiles.count * b / w.blocks, count = w.tiles.count * (b + 1) / w.blocks - first;
    parallel(parallel_for, count, 4, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) w.transform(first + t, t, large, small, larges, smalls);
    });
    if (part_by_part) {
      parallel(parallel_for, w.parts, 1, [&](int64_t begin, int64_t end) {
        const Scratch sums(w.sum_part);
        for (int64_t part = begin; part < end; ++part) {
          for (int64_t p = 0; p < w.kPlanes; ++p) w.multiply(part, p, count, larges, smalls, true, sums.data());
          for (int64_t r = 0; r < w.rows(part); ++r) w.finish(part, r, sums.data(), strides, gradient);
        }
      });
      return;
    }
    parallel(parallel_for, w.parts * w.kPlanes, 1, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t part = task / w.kPlanes;
        w.multiply(part, task % w.kPlanes, count, larges, smalls, b == 0, all_sums.data() + part * w.sum_part);
      }
    });
  }
  parallel(parallel_for, w.parts * w.slice, 32, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t part = task / w.slice, r = task % w.slice;
      if (r < w.rows(part)) w.finish(part, r, all_sums.data() + part * w.sum_part, strides, gradient);
    }
  });
}
