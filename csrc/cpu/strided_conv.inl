// The 5×5 convolution of stride 2 and padding 2, its transpose and its weight gradient, on float images with channels
// last in memory, by minimal filtering (Winograd 1980; Lavin & Gray 2016).
//
// Along one direction the taps 0, 2, 4 meet only the even places of the large image and the taps 1, 3 only the odd
// ones. So M values of the small image are F(M, 3) of the ones plus F(M, 2) of the others: M + 2 and M + 1 products
// instead of 5·M. For M = 2 that is 49 instead of 100 in two directions, for M = 4 it is 121 instead of 400. Each of
// these planes is a matrix product of tiles × channels × channels:
//
//   forward           large windows (2M + 3)² → planes, times the filter → planes → small tiles M²
//   transposed        small windows (M + 2)² → planes, times the filter → planes → large tiles (2M)²
//   weight gradient   large windows → planes, times small tiles → planes, summed over tiles → filter 5²
//
// Tiles are worked on in blocks whose planes stay in the caches. The order of every sum depends on the shape alone.

namespace strided_conv {

constexpr int kRows = IGAN_FAST_ISA_LEVEL == 2 ? 12 : 6;  // of a product's block whose sums stand in registers
constexpr int64_t kPanel = 2 * kLanes<float>;             // columns of it
constexpr int64_t kBlockBytes = int64_t{3} << 20;         // planes of a block of tiles, of one thread
constexpr int64_t kGradientBytes = int64_t{3} << 20;      // the same for the weight gradient, of all threads
constexpr int64_t kEven = 8;                              // threads between which blocks divide evenly

typedef Vec<float> V;

inline int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// Planes one cache line further than a multiple of anything: all are written to at once, and must not share a set.
inline int64_t plane_of(int64_t rows, int64_t columns) { return round_up(rows * columns, 32) + 16; }

template <int R, int C>
struct Matrix {
  float at[R][C];
};

// y = join · ((filter · w) ⊙ (split · d)) are the M values y of the correlation of d with w: three taps (even) and two
// (odd). Of the Cook–Toom matrices for the points 0, 1, −1, 2, −½, ∞ and 0, 1, −1, ½, ∞ these lose the fewest digits.
template <int M>
struct Points;

template <>
struct Points<2> {
  static constexpr Matrix<4, 4> even_split = {{{1, 0, -1, 0}, {0, 1, 1, 0}, {0, -1, 1, 0}, {0, -1, 0, 1}}};
  static constexpr Matrix<4, 3> even_filter = {{{1, 0, 0}, {.5f, .5f, .5f}, {.5f, -.5f, .5f}, {0, 0, 1}}};
  static constexpr Matrix<2, 4> even_join = {{{1, 1, 1, 0}, {0, 1, -1, 1}}};
  static constexpr Matrix<3, 3> odd_split = {{{1, -1, 0}, {0, 1, 0}, {0, -1, 1}}};
  static constexpr Matrix<3, 2> odd_filter = {{{1, 0}, {1, 1}, {0, 1}}};
  static constexpr Matrix<2, 3> odd_join = {{{1, 1, 0}, {0, 1, 1}}};
};

template <>
struct Points<4> {
  static constexpr float t = 1 / 3.f, f = 1 / 15.f;
  static constexpr Matrix<6, 6> even_split = {{{1, 1.5f, -2, -1.5f, 1, 0},
                                               {0, -1, -2.5f, -.5f, 1, 0},
                                               {0, 1, .5f, -2.5f, 1, 0},
                                               {0, -.5f, -1, .5f, 1, 0},
                                               {0, 2, -1, -2, 1, 0},
                                               {0, 1, 1.5f, -2, -1.5f, 1}}};
  static constexpr Matrix<6, 3> even_filter = {
      {{1, 0, 0}, {-t, -t, -t}, {t, -t, t}, {f, 2 * f, 4 * f}, {-16 * f, 8 * f, -4 * f}, {0, 0, 1}}};
  static constexpr Matrix<4, 6> even_join = {
      {{1, 1, 1, 1, 1, 0}, {0, 1, -1, 2, -.5f, 0}, {0, 1, 1, 4, .25f, 0}, {0, 1, -1, 8, -.125f, 1}}};
  static constexpr Matrix<5, 5> odd_split = {
      {{.5f, -1, -.5f, 1, 0}, {0, -.5f, .5f, 1, 0}, {0, .5f, -1.5f, 1, 0}, {0, -1, 0, 1, 0}, {0, .5f, -1, -.5f, 1}}};
  static constexpr Matrix<5, 2> odd_filter = {{{2, 0}, {1, 1}, {-t, t}, {-8 * t, -4 * t}, {0, 1}}};
  static constexpr Matrix<4, 5> odd_join = {
      {{1, 1, 1, 1, 0}, {0, 1, -1, .5f, 0}, {0, 1, 1, .25f, 0}, {0, 1, -1, .125f, 1}}};
};

// Σ matrix · in, term by term in the columns' order; in_at(column), and matrix_at(column) known when compiling.
template <int C, typename MatrixAt, typename In>
IGAN_FAST_INLINE V dot(const MatrixAt& matrix_at, const In& in_at) {
  V sum{};
  bool any = false;
  unroll<C>([&](int c) IGAN_FAST_INLINE_LAMBDA {
    const float factor = matrix_at(c);
    if (factor == 0) return;
    if (!any)
      sum = factor == 1 ? in_at(c) : in_at(c) * factor;
    else if (factor == 1)
      sum += in_at(c);
    else if (factor == -1)
      sum -= in_at(c);
    else
      sum += in_at(c) * factor;
    any = true;
  });
  return sum;
}

// One direction of each transform, between an image's places or taps and the even, then the odd products.
template <int M>
struct Direction {
  using P = Points<M>;
  static constexpr int kEvens = M + 2, kOdds = M + 1, kProducts = 2 * M + 3;
  static constexpr int kLargeWindow = 2 * M + 3, kSmallWindow = M + 2;

  struct SplitLarge {
    IGAN_FAST_INLINE void operator()(const V (&d)[kLargeWindow], V (&v)[kProducts]) const {
      unroll<kEvens>([&](int r) IGAN_FAST_INLINE_LAMBDA {
        v[r] = dot<kEvens>([&](int c) { return P::even_split.at[r][c]; }, [&](int c) { return d[2 * c]; });
      });
      unroll<kOdds>([&](int r) IGAN_FAST_INLINE_LAMBDA {
        v[kEvens + r] = dot<kOdds>([&](int c) { return P::odd_split.at[r][c]; }, [&](int c) { return d[2 * c + 1]; });
      });
    }
  };
  struct SplitSmall {
    IGAN_FAST_INLINE void operator()(const V (&d)[kSmallWindow], V (&v)[kProducts]) const {
      unroll<kEvens>([&](int r) IGAN_FAST_INLINE_LAMBDA {
        v[r] = dot<kEvens>([&](int c) { return P::even_split.at[r][c]; }, [&](int c) { return d[c]; });
      });
      unroll<kOdds>([&](int r) IGAN_FAST_INLINE_LAMBDA {
        v[kEvens + r] = dot<kOdds>([&](int c) { return P::odd_split.at[r][c]; }, [&](int c) { return d[c + 1]; });
      });
    }
  };
  struct SpreadSmall {  // the transpose of JoinSmall
    IGAN_FAST_INLINE void operator()(const V (&y)[M], V (&m)[kProducts]) const {
      unroll<kEvens>([&](int r) IGAN_FAST_INLINE_LAMBDA {
        m[r] = dot<M>([&](int c) { return P::even_join.at[c][r]; }, [&](int c) { return y[c]; });
      });
      unroll<kOdds>([&](int r) IGAN_FAST_INLINE_LAMBDA {
        m[kEvens + r] = dot<M>([&](int c) { return P::odd_join.at[c][r]; }, [&](int c) { return y[c]; });
      });
    }
  };
  struct JoinSmall {
    IGAN_FAST_INLINE void operator()(const V (&m)[kProducts], V (&y)[M]) const {
      unroll<M>([&](int r) IGAN_FAST_INLINE_LAMBDA {
        y[r] = dot<kEvens>([&](int c) { return P::even_join.at[r][c]; }, [&](int c) { return m[c]; }) +
               dot<kOdds>([&](int c) { return P::odd_join.at[r][c]; }, [&](int c) { return m[kEvens + c]; });
      });
    }
  };
  struct JoinLarge {
    IGAN_FAST_INLINE void operator()(const V (&m)[kProducts], V (&x)[2 * M]) const {
      unroll<M>([&](int r) IGAN_FAST_INLINE_LAMBDA {
        x[2 * r] = dot<kEvens>([&](int c) { return P::even_join.at[r][c]; }, [&](int c) { return m[c]; });
        x[2 * r + 1] = dot<kOdds>([&](int c) { return P::odd_join.at[r][c]; }, [&](int c) { return m[kEvens + c]; });
      });
    }
  };
  struct SplitFilter {
    IGAN_FAST_INLINE void operator()(const V (&w)[5], V (&u)[kProducts]) const {
      unroll<kEvens>([&](int r) IGAN_FAST_INLINE_LAMBDA {
        u[r] = dot<3>([&](int c) { return P::even_filter.at[r][c]; }, [&](int c) { return w[2 * c]; });
      });
      unroll<kOdds>([&](int r) IGAN_FAST_INLINE_LAMBDA {
        u[kEvens + r] = dot<2>([&](int c) { return P::odd_filter.at[r][c]; }, [&](int c) { return w[2 * c + 1]; });
      });
    }
  };
  struct JoinFilter {  // the transpose of SplitFilter
    IGAN_FAST_INLINE void operator()(const V (&u)[kProducts], V (&w)[5]) const {
      unroll<3>([&](int r) IGAN_FAST_INLINE_LAMBDA {
        w[2 * r] = dot<kEvens>([&](int c) { return P::even_filter.at[c][r]; }, [&](int c) { return u[c]; });
      });
      unroll<2>([&](int r) IGAN_FAST_INLINE_LAMBDA {
        w[2 * r + 1] = dot<kOdds>([&](int c) { return P::odd_filter.at[c][r]; }, [&](int c) { return u[kEvens + c]; });
      });
    }
  };
};

// A transform along rows, then along columns: store_at(row, column, transformed) of load_at(row, column).
template <int kIn, int kOut, typename Transform, typename Load, typename Store>
IGAN_FAST_INLINE void both_ways(const Transform& transform, const Load& load_at, const Store& store_at) {
  V half[kOut][kIn];
  for (int r = 0; r < kIn; ++r) {
    V in[kIn], out[kOut];
    unroll<kIn>([&](int c) IGAN_FAST_INLINE_LAMBDA { in[c] = load_at(r, c); });
    transform(in, out);
    unroll<kOut>([&](int c) IGAN_FAST_INLINE_LAMBDA { half[c][r] = out[c]; });
  }
  for (int c = 0; c < kOut; ++c) {
    V out[kOut];
    transform(half[c], out);
    unroll<kOut>([&](int r) IGAN_FAST_INLINE_LAMBDA { store_at(r, c, out[r]); });
  }
}

IGAN_FAST_INLINE V load_some(const float* from, int64_t lanes) {
  return lanes >= kLanes<float> ? load(from) : load_partial(from, lanes);
}

IGAN_FAST_INLINE void store_some(float* to, V v, int64_t lanes) {
  if (lanes >= kLanes<float>)
    store<false>(to, v);
  else
    store_partial(to, v, lanes);
}

// A rectangle of an image (rows, columns, channels), parts of which may lie outside.
struct Window {
  int64_t offset, row_stride, channels;
  int64_t top, left, rows, columns;  // of the image, from the window's corner

  Window(int64_t image, int64_t first_row, int64_t first_column, int64_t height, int64_t width, int64_t channels_)
      : offset(((image * height + first_row) * width + first_column) * channels_),
        row_stride(width * channels_),
        channels(channels_),
        top(-first_row),
        left(-first_column),
        rows(height),
        columns(width) {}
  bool has(int64_t r, int64_t c) const { return r >= top && r < top + rows && c >= left && c < left + columns; }
  bool whole(int64_t size) const { return has(0, 0) && has(size - 1, size - 1); }
  int64_t at(int64_t r, int64_t c) const { return offset + r * row_stride + c * channels; }
};

// Where a tile stands: image, row and column of tiles.
template <int M>
struct Place {
  int64_t image, row, column;
  Place(const StridedConvShape& s, int64_t tile) {
    const int64_t across = (s.small_width + M - 1) / M, down = (s.small_height + M - 1) / M;
    column = tile % across, row = tile / across % down, image = tile / across / down;
  }
  Window small(const StridedConvShape& s, int64_t border) const {
    return Window(image, M * row - border, M * column - border, s.small_height, s.small_width, s.small_channels);
  }
  Window large(const StridedConvShape& s, int64_t border) const {
    return Window(image, 2 * M * row - border, 2 * M * column - border, 2 * s.small_height, 2 * s.small_width,
                  s.large_channels);
  }
};

template <int M>
int64_t tiles_of(const StridedConvShape& s) {
  return s.batch * ((s.small_height + M - 1) / M) * ((s.small_width + M - 1) / M);
}

// planes[p][tile] = the transform of a window, for every channel; lanes past the last are 0.
template <int kIn, int kProducts, typename Transform>
void split_window(const Transform& transform, const float* image, const Window& window, float* planes, int64_t plane) {
  const auto channels = [&](auto whole) IGAN_FAST_INLINE_LAMBDA {
    for (int64_t c = 0; c < window.channels; c += kLanes<float>) {
      const int64_t lanes = window.channels - c;
      both_ways<kIn, kProducts>(
          transform,
          [&](int row, int column) IGAN_FAST_INLINE_LAMBDA {
            if constexpr (!whole())
              if (!window.has(row, column)) return V{};
            return load_some(image + window.at(row, column) + c, lanes);
          },
          [&](int row, int column, V v)
              IGAN_FAST_INLINE_LAMBDA { store<false>(planes + (kProducts * row + column) * plane + c, v); });
    }
  };
  window.whole(kIn) ? channels(std::true_type{}) : channels(std::false_type{});
}

// The other way: a tile of the image from its planes, plus bias, through a LeakyReLU.
template <int kProducts, int kOut, typename Transform>
void join_tile(const Transform& transform, const float* planes, int64_t plane, const float* bias, float slope,
               float* image, const Window& window) {
  for (int64_t c = 0; c < window.channels; c += kLanes<float>) {
    const int64_t lanes = window.channels - c;
    const V shift = bias ? load_some(bias + c, lanes) : V{};
    both_ways<kProducts, kOut>(
        transform,
        [&](int row, int column)
            IGAN_FAST_INLINE_LAMBDA { return load(planes + (kProducts * row + column) * plane + c); },
        [&](int row, int column, V v) IGAN_FAST_INLINE_LAMBDA {
          if (!window.has(row, column)) return;
          const V z = v + shift;
          store_some(image + window.at(row, column) + c, z > 0 ? z : z * slope, lanes);
        });
  }
}

// c (R × kPanel) = or += a (R × depth) · b (depth × kPanel).
template <int R, bool kAdd>
void multiply(const float* a, int64_t a_row, int64_t a_step, const float* b, int64_t b_step, int64_t depth, float* c,
              int64_t c_row) {
  constexpr int L = kLanes<float>;
  V sums[R][2] = {};
  for (int64_t k = 0; k < depth; ++k, a += a_step, b += b_step) {
    const V first = load(b), second = load(b + L);
    unroll<R>([&](int r) IGAN_FAST_INLINE_LAMBDA {
      const V factor = broadcast(a[r * a_row]);
      sums[r][0] += factor * first;
      sums[r][1] += factor * second;
    });
  }
  unroll<R>([&](int r) IGAN_FAST_INLINE_LAMBDA {
    float* to = c + r * c_row;
    if constexpr (kAdd) sums[r][0] += load(to), sums[r][1] += load(to + L);
    store<false>(to, sums[r][0]);
    store<false>(to + L, sums[r][1]);
  });
}

using Multiply = void (*)(const float*, int64_t, int64_t, const float*, int64_t, int64_t, float*, int64_t);

template <bool kAdd, int... r>
constexpr std::array<Multiply, sizeof...(r)> multiply_table(std::integer_sequence<int, r...>) {
  return {&multiply<r + 1, kAdd>...};
}

// For any number of rows.
template <bool kAdd>
void multiply_rows(int64_t rows, const float* a, int64_t a_row, int64_t a_step, const float* b, int64_t b_step,
                   int64_t depth, float* c, int64_t c_row) {
  static constexpr auto table = multiply_table<kAdd>(std::make_integer_sequence<int, kRows>{});
  for (int64_t m = 0; m < rows; m += kRows) {
    const int64_t left = rows - m < kRows ? rows - m : kRows;
    table[static_cast<size_t>(left - 1)](a + m * a_row, a_row, a_step, b, b_step, depth, c + m * c_row, c_row);
  }
}

// A thread's own memory, kept from call to call.
inline float* scratch_of(int64_t floats) {
  thread_local std::unique_ptr<float[]> memory;
  thread_local int64_t size = 0;
  if (size < floats + 16) {
    memory.reset();
    memory.reset(new float[static_cast<size_t>(floats + 16)]);
    size = floats + 16;
  }
  const uintptr_t address = reinterpret_cast<uintptr_t>(memory.get());
  return memory.get() + (64 - address % 64) % 64 / sizeof(float);
}

// A filter for `depth` channels in and `channels` out: planes of panels of (depth, kPanel).
template <int M>
struct Filter {
  static constexpr int64_t kPlanes = Direction<M>::kProducts * Direction<M>::kProducts;
  int64_t depth, channels, panels, plane;
  Filter(const StridedConvShape& s, bool transposed)
      : depth(transposed ? s.small_channels : s.large_channels),
        channels(transposed ? s.large_channels : s.small_channels),
        panels((channels + kPanel - 1) / kPanel),
        plane(plane_of(panels * depth, kPanel)) {}
};

// `lanes` values a stride apart.
IGAN_FAST_INLINE V gather(const float* from, int64_t stride, int64_t lanes) {
  V v{};
  if (lanes >= kLanes<float>)
    for (int i = 0; i < kLanes<float>; ++i) v[i] = from[i * stride];
  else
    for (int i = 0; i < kLanes<float>; ++i) v[i] = i < lanes ? from[i * stride] : 0;
  return v;
}

template <int M>
void make_filter(const StridedConvShape& s, const FilterStrides& strides, const float* weight, bool transposed,
                 float* out, ParallelFor run) {
  using D = Direction<M>;
  const Filter<M> f(s, transposed);
  const int64_t in = transposed ? strides.small : strides.large, channel = transposed ? strides.large : strides.small;
  // The transposed convolution meets the taps in the opposite order.
  const int64_t first_tap = transposed ? 4 * (strides.row + strides.column) : 0, sign = transposed ? -1 : 1;
  parallel(run, f.panels * f.depth, 64, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task)
      for (int64_t half = 0; half < kPanel; half += kLanes<float>) {
        const int64_t lane = task / f.depth * kPanel + half, lanes = f.channels - lane;
        const float* from = weight + first_tap + task % f.depth * in + lane * channel;
        both_ways<5, D::kProducts>(
            typename D::SplitFilter{},
            [&](int row, int column) IGAN_FAST_INLINE_LAMBDA {
              if (lanes <= 0) return V{};
              return gather(from + sign * (row * strides.row + column * strides.column), channel, lanes);
            },
            [&](int row, int column, V v) IGAN_FAST_INLINE_LAMBDA {
              store<false>(out + (D::kProducts * row + column) * f.plane + task * kPanel + half, v);
            });
      }
  });
}

template <int M, bool kTransposed>
void convolve(const StridedConvShape& s, const float* in, const float* filter, const float* bias, float slope,
              float* out, ParallelFor run) {
  using D = Direction<M>;
  constexpr int64_t kPlanes = Filter<M>::kPlanes;
  const Filter<M> f(s, kTransposed);
  const int64_t tiles = tiles_of<M>(s), in_row = round_up(f.depth, kLanes<float>), out_row = f.panels * kPanel;
  const int64_t most = std::max<int64_t>(kBlockBytes / (kPlanes * 4 * (in_row + out_row)), 4 * kRows);
  int64_t blocks = (tiles + most - 1) / most;
  blocks = std::min(round_up(blocks, kEven), std::max<int64_t>(tiles / kRows, 1));
  parallel(run, blocks, 1, [&](int64_t begin, int64_t end) {
    const int64_t room = (tiles + blocks - 1) / blocks;
    const int64_t in_plane = plane_of(room, in_row), out_plane = plane_of(room, out_row);
    float* const ins = scratch_of(kPlanes * (in_plane + out_plane));
    float* const outs = ins + kPlanes * in_plane;
    for (int64_t b = begin; b < end; ++b) {
      const int64_t first = tiles * b / blocks, count = tiles * (b + 1) / blocks - first;
      for (int64_t t = 0; t < count; ++t) {
        const Place<M> place(s, first + t);
        if constexpr (kTransposed)
          split_window<D::kSmallWindow, D::kProducts>(typename D::SplitSmall{}, in, place.small(s, 1), ins + t * in_row,
                                                      in_plane);
        else
          split_window<D::kLargeWindow, D::kProducts>(typename D::SplitLarge{}, in, place.large(s, 2), ins + t * in_row,
                                                      in_plane);
      }
      for (int64_t p = 0; p < kPlanes; ++p)
        for (int64_t panel = 0; panel < f.panels; ++panel)
          multiply_rows<false>(count, ins + p * in_plane, in_row, 1, filter + p * f.plane + panel * f.depth * kPanel,
                               kPanel, f.depth, outs + p * out_plane + panel * kPanel, out_row);
      for (int64_t t = 0; t < count; ++t) {
        const Place<M> place(s, first + t);
        if constexpr (kTransposed)
          join_tile<D::kProducts, 2 * M>(typename D::JoinLarge{}, outs + t * out_row, out_plane, bias, slope, out,
                                         place.large(s, 0));
        else
          join_tile<D::kProducts, M>(typename D::JoinSmall{}, outs + t * out_row, out_plane, bias, slope, out,
                                     place.small(s, 0));
      }
    }
  });
}

template <int M>
void weight_gradient(const StridedConvShape& s, const FilterStrides& strides, const float* large, const float* small,
                     float* gradient, ParallelFor run) {
  using D = Direction<M>;
  constexpr int64_t kPlanes = Filter<M>::kPlanes;
  const int64_t tiles = tiles_of<M>(s), panels = (s.small_channels + kPanel - 1) / kPanel;
  const int64_t large_row = round_up(s.large_channels, kLanes<float>), small_row = panels * kPanel;
  const int64_t most = std::max<int64_t>(kGradientBytes / (kPlanes * 4 * (large_row + small_row)), 32);
  const int64_t blocks = (tiles + most - 1) / most, room = (tiles + blocks - 1) / blocks;
  const int64_t large_plane = plane_of(room, large_row), small_plane = plane_of(room, small_row),
                sum_plane = plane_of(s.large_channels, small_row);
  float* const larges = scratch_of(kPlanes * (large_plane + small_plane + sum_plane));
  float* const smalls = larges + kPlanes * large_plane;
  float* const sums = smalls + kPlanes * small_plane;
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t first = tiles * b / blocks, count = tiles * (b + 1) / blocks - first;
    parallel(run, count, 4, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        const Place<M> place(s, first + t);
        split_window<D::kLargeWindow, D::kProducts>(typename D::SplitLarge{}, large, place.large(s, 2),
                                                    larges + t * large_row, large_plane);
        split_window<M, D::kProducts>(typename D::SpreadSmall{}, small, place.small(s, 0), smalls + t * small_row,
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
    float taps[25][kPanel];
    for (int64_t task = begin; task < end; ++task) {
      const int64_t channel = task / panels, first = task % panels * kPanel;
      for (int64_t half = 0; half < kPanel; half += kLanes<float>) {
        const float* from = sums + channel * small_row + first + half;
        both_ways<D::kProducts, 5>(
            typename D::JoinFilter{},
            [&](int row, int column)
                IGAN_FAST_INLINE_LAMBDA { return load(from + (D::kProducts * row + column) * sum_plane); },
            [&](int row, int column, V v) IGAN_FAST_INLINE_LAMBDA { store<false>(&taps[5 * row + column][half], v); });
      }
      const int64_t lanes = std::min(kPanel, s.small_channels - first);
      for (int64_t lane = 0; lane < lanes; ++lane) {
        float* to = gradient + channel * strides.large + (first + lane) * strides.small;
        for (int64_t tap = 0; tap < 25; ++tap) to[tap / 5 * strides.row + tap % 5 * strides.column] = taps[tap][lane];
      }
    }
  });
}

template <int M>
int64_t filter_size(const StridedConvShape& s, bool transposed) {
  return Filter<M>::kPlanes * Filter<M>(s, transposed).plane;
}

template <int M>
constexpr StridedConvKernels kernels = {&filter_size<M>, &make_filter<M>, &convolve<M, false>, &convolve<M, true>,
                                        &weight_gradient<M>};

}  // namespace strided_conv
