// Convolution by minimal filtering, its transpose and its weight gradient, on float images with channels last in
// memory.
//
// With tiles of M = 2 that is 49 products instead of 100 for the 5×5 filter of stride 2, with M = 4 it is 121 instead
// of 400; for 4×4 and stride 2 it is 36 of 64 and 100 of 256, for 3×3 and stride 2 25 of 36 and 81 of 144, for 3×3 and
// stride 1 16 of 36 and 36 of 144. Each of these N² = (S·(M − 1) + K)² planes is a matrix product of tiles × channels ×
// channels:
//
//   forward           large windows N² → planes, times the filter → planes → small tiles M²
//   transposed        small windows → planes, times the filter → planes → large tiles (S·M)²
//   weight gradient   large windows N² → planes, times small tiles M² → planes, summed over tiles → filter K²
//
// Tiles are worked on in blocks whose planes stay in the caches. The order of every sum depends on the shape alone.

namespace winograd {

#include "winograd_transforms.inl"
#include "winograd_products.inl"
#include "winograd_tiles.inl"

constexpr int64_t kBlockBytes = int64_t{3} << 20;     // planes of a block of tiles, of one thread
constexpr int64_t kGradientBytes = int64_t{3} << 20;  // the same for the weight gradient, of all threads
constexpr int64_t kEven = 8;                          // threads between which blocks divide evenly
constexpr int64_t kOwnTiles = 24;                     // of a block that a thread has for itself, at least
constexpr int64_t kSharedTiles = 128;                 // of a block that all threads share, at most

// parallel() where there is nothing to share out.
inline void in_one_piece(int64_t begin, int64_t end, int64_t, Body body, void* context) { body(begin, end, context); }

// A filter for `depth` channels in and `channels` out: planes of panels of (depth, kPanel).
template <typename F>
struct Filter {
  static constexpr int64_t kPlanes = int64_t{F::kProducts} * F::kProducts;
  int64_t depth, channels, panels, plane;
  Filter(int64_t small_channels, int64_t large_channels, bool transposed)
      : depth(transposed ? small_channels : large_channels),
        channels(transposed ? large_channels : small_channels),
        panels((channels + kPanel - 1) / kPanel),
        plane(plane_of(panels * depth, kPanel)) {}
};

template <typename F>
int64_t filter_size(int64_t small_channels, int64_t large_channels, bool transposed) {
  return Filter<F>::kPlanes * Filter<F>(small_channels, large_channels, transposed).plane;
}

// `lanes` values a stride apart.
IGAN_FAST_INLINE V gather(const float* from, int64_t stride, int64_t lanes) {
  V v{};
  if (lanes >= kLanes<float>)
    for (int i = 0; i < kLanes<float>; ++i) v[i] = from[i * stride];
  else
    for (int i = 0; i < kLanes<float>; ++i) v[i] = i < lanes ? from[i * stride] : 0;
  return v;
}

template <typename F>
void make_filter(int64_t small_channels, int64_t large_channels, const FilterStrides& strides, const float* weight,
                 bool transposed, float* out, ParallelFor run) {
  const Filter<F> f(small_channels, large_channels, transposed);
  const int64_t in = transposed ? strides.small : strides.large, channel = transposed ? strides.large : strides.small;
  int64_t row_at[F::kKernel], column_at[F::kKernel];
  for (int k = 0; k < F::kKernel; ++k) {
    const int tap = transposed ? F::opposite(k) : k;
    row_at[k] = tap * strides.row, column_at[k] = tap * strides.column;
  }
  // Each plane is written a run at a time and past the caches: value by value, every store to one of so many planes
  // would wait for its cache line.
  constexpr int64_t kRun = 16, kRow = kRun * kPanel + 16;
  const bool aligned = reinterpret_cast<uintptr_t>(out) % 64 == 0;
  parallel(run, f.panels * f.depth, 64, [&](int64_t begin, int64_t end) {
    const Scratch scratch(f.kPlanes * kRow);
    float* const rows = scratch.data();
    for (int64_t first = begin; first < end; first += kRun) {
      const int64_t count = std::min(kRun, end - first);
      for (int64_t task = first; task < first + count; ++task)
        for (int64_t half = 0; half < kPanel; half += kLanes<float>) {
          const int64_t lane = task / f.depth * kPanel + half, lanes = f.channels - lane;
          const float* from = weight + task % f.depth * in + lane * channel;
          float* to = rows + (task - first) * kPanel + half;
          both_ways<typename F::SplitFilter>(
              [&](int row, int column) IGAN_FAST_INLINE_LAMBDA {
                if (lanes <= 0) return V{};
                return gather(from + row_at[row] + column_at[column], channel, lanes);
              },
              [&](int row, int column, V v)
                  IGAN_FAST_INLINE_LAMBDA { store<false>(to + (F::kProducts * row + column) * kRow, v); });
        }
      for (int64_t p = 0; p < f.kPlanes; ++p) {
        const float* from = rows + p * kRow;
        float* to = out + p * f.plane + first * kPanel;
        for (int64_t i = 0; i < count * kPanel; i += kLanes<float>)
          aligned ? store<true>(to + i, load(from + i)) : store<false>(to + i, load(from + i));
      }
    }
    if (aligned) end_streams();
  });
}

// What convolve() reads and writes for a tile.
template <typename F_>
struct Forward {
  using F = F_;
  using Split = typename F::SplitLarge;
  using Join = typename F::JoinSmall;
  static constexpr bool kTransposed = false;
  static Tiles tiles(const ConvShape& s) { return Tiles(s.batch, s.small_height, s.small_width, F::kTile); }
  static Window in(const ConvShape& s, int64_t image, int64_t row, int64_t column) {
    return large_window(s, image, F::kStride * row - s.padding, F::kStride * column - s.padding);
  }
  static Window out(const ConvShape& s, int64_t image, int64_t row, int64_t column) {
    return small_window(s, image, row, column);
  }
};

template <typename F_, int R>
struct Transposed {
  using F = F_;
  using Split = typename F::template SplitSmall<R>;
  using Join = typename F::template JoinLarge<R>;
  static constexpr bool kTransposed = true;
  static Tiles tiles(const ConvShape& s) {
    return Tiles(s.batch, s.large_height, s.large_width, int64_t{F::kStride} * F::kTile);
  }
  static Window in(const ConvShape& s, int64_t image, int64_t row, int64_t column) {
    const int64_t begin = s.padding / F::kStride + Split::kBegin;
    return small_window(s, image, row / F::kStride + begin, column / F::kStride + begin);
  }
  static Window out(const ConvShape& s, int64_t image, int64_t row, int64_t column) {
    return large_window(s, image, row, column);
  }
};

template <typename Way>
void convolve(const ConvShape& s, const float* in, const float* filter, const float* bias, float slope, float* out,
              ParallelFor run) {
  constexpr int64_t kPlanes = Filter<typename Way::F>::kPlanes;
  const Filter<typename Way::F> f(s.small_channels, s.large_channels, Way::kTransposed);
  const Tiles tiles = Way::tiles(s);
  const int64_t in_row = round_up(f.depth, kLanes<float>), out_row = f.panels * kPanel;
  // A block for each thread, unless its few tiles would not be worth reading the whole filter; then blocks for all
  // threads together.
  const int64_t most = std::max<int64_t>(kBlockBytes / (kPlanes * 4 * (in_row + out_row)), 1);
  int64_t blocks = round_up((tiles.count + most - 1) / most, kEven);
  const bool apart = tiles.count / blocks >= kOwnTiles;
  if (!apart) blocks = (tiles.count + kSharedTiles - 1) / kSharedTiles;
  const int64_t room = (tiles.count + blocks - 1) / blocks;
  const int64_t in_plane = plane_of(room, in_row), out_plane = plane_of(room, out_row);
  parallel(apart ? run : &in_one_piece, blocks, 1, [&](int64_t begin, int64_t end) {
    const ParallelFor inside = apart ? &in_one_piece : run;
    const Scratch scratch(kPlanes * (in_plane + out_plane));
    float* const ins = scratch.data();
    float* const outs = ins + kPlanes * in_plane;
    for (int64_t b = begin; b < end; ++b) {
      const int64_t first = tiles.count * b / blocks, count = tiles.count * (b + 1) / blocks - first;
      parallel(inside, count, 4, [&](int64_t from, int64_t to) {
        for (int64_t t = from; t < to; ++t) {
          const Window window = Way::in(s, tiles.image(first + t), tiles.row(first + t), tiles.column(first + t));
          split_window<typename Way::Split>(in, window, ins + t * in_row, in_plane);
        }
      });
      parallel(inside, kPlanes * f.panels, 1, [&](int64_t from, int64_t to) {
        for (int64_t task = from; task < to; ++task) {
          const int64_t p = task / f.panels, panel = task % f.panels;
          multiply_rows<false>(count, ins + p * in_plane, in_row, 1, filter + p * f.plane + panel * f.depth * kPanel,
                               kPanel, f.depth, outs + p * out_plane + panel * kPanel, out_row);
        }
      });
      parallel(inside, count, 4, [&](int64_t from, int64_t to) {
        for (int64_t t = from; t < to; ++t) {
          const Window window = Way::out(s, tiles.image(first + t), tiles.row(first + t), tiles.column(first + t));
          join_tile<typename Way::Join>(outs + t * out_row, out_plane, bias, slope, out, window);
        }
      });
    }
  });
}

template <typename F, int R = 0>
void convolve_transposed(const ConvShape& s, const float* small, const float* filter, const float* bias, float slope,
                         float* large, ParallelFor run) {
  if constexpr (R + 1 < F::kStride)
    if (s.padding % F::kStride != R) return convolve_transposed<F, R + 1>(s, small, filter, bias, slope, large, run);
  convolve<Transposed<F, R>>(s, small, filter, bias, slope, large, run);
}

template <typename F>
void weight_gradient(const ConvShape& s, const FilterStrides& strides, const float* large, const float* small,
                     float* gradient, ParallelFor run) {
  constexpr int64_t kPlanes = Filter<F>::kPlanes;
  constexpr int kTaps = F::kKernel * F::kKernel;
  const Tiles tiles = Forward<F>::tiles(s);
  const int64_t panels = (s.small_channels + kPanel - 1) / kPanel;
  const int64_t large_row = round_up(s.large_channels, kLanes<float>), small_row = panels * kPanel;
  const int64_t most = std::max<int64_t>(kGradientBytes / (kPlanes * 4 * (large_row + small_row)), 32);
  const int64_t blocks = (tiles.count + most - 1) / most, room = (tiles.count + blocks - 1) / blocks;
  const int64_t large_plane = plane_of(room, large_row), small_plane = plane_of(room, small_row),
                sum_plane = plane_of(s.large_channels, small_row);
  const Scratch scratch(kPlanes * (large_plane + small_plane + sum_plane));
  float* const larges = scratch.data();
  float* const smalls = larges + kPlanes * large_plane;
  float* const sums = smalls + kPlanes * small_plane;
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t first = tiles.count * b / blocks, count = tiles.count * (b + 1) / blocks - first;
    parallel(run, count, 4, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        const int64_t image = tiles.image(first + t), row = tiles.row(first + t), column = tiles.column(first + t);
        split_window<typename F::SplitLarge>(large, Forward<F>::in(s, image, row, column), larges + t * large_row,
                                             large_plane);
        split_window<typename F::SpreadSmall>(small, Forward<F>::out(s, image, row, column), smalls + t * small_row,
                                              small_plane);
      }
    });
    parallel(run, kPlanes * panels, 1, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t p = task / panels, column = task % panels * kPanel;
        const auto product = b == 0 ? &multiply_rows<false> : &multiply_rows<true>;
        product(s.large_channels, larges + p * large_plane, 1, large_row, smalls + p * small_plane + column, small_row,
                count, sums + p * sum_plane + column, small_row);
      }
    });
  }
  parallel(run, panels * s.large_channels, 64, [&](int64_t begin, int64_t end) {
    float taps[kTaps][kPanel];
    for (int64_t task = begin; task < end; ++task) {
      const int64_t channel = task / panels, first = task % panels * kPanel;
      for (int64_t half = 0; half < kPanel; half += kLanes<float>) {
        const float* from = sums + channel * small_row + first + half;
        both_ways<typename F::JoinFilter>(
            [&](int row, int column)
                IGAN_FAST_INLINE_LAMBDA { return load(from + (F::kProducts * row + column) * sum_plane); },
            [&](int row, int column, V v)
                IGAN_FAST_INLINE_LAMBDA { store<false>(&taps[F::kKernel * row + column][half], v); });
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

template <int K, int S, int M>
constexpr WinogradKernels kernels = {K,
                                     S,
                                     M,
                                     &filter_size<Filtering<K, S, M>>,
                                     &make_filter<Filtering<K, S, M>>,
                                     &convolve<Forward<Filtering<K, S, M>>>,
                                     &convolve_transposed<Filtering<K, S, M>>,
                                     &weight_gradient<Filtering<K, S, M>>};

}  // namespace winograd
