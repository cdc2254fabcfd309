// The filter transform.

// The layout of a transformed filter for `depth` channels in and `channels` out. A plane is divided into panels of
// kPanel channels, each a matrix (depth, kPanel), as multiply() reads it.
template <typename F>
struct Filter {
  static constexpr int64_t kPlanes = int64_t{F::kProducts} * F::kProducts;
  int64_t depth, channels, panels, plane;
  Filter(int64_t small_channels, int64_t large_channels, bool transposed)
      : depth(transposed ? small_channels : large_channels),
        channels(transposed ? large_channels : small_channels),
        panels(divided_up(channels, kPanel)),
        plane(plane_size(panels * depth, kPanel)) {}
};

template <typename F>
int64_t filter_size(int64_t small_channels, int64_t large_channels, bool transposed) {
  return Filter<F>::kPlanes * Filter<F>(small_channels, large_channels, transposed).plane;
}

// The first `lanes` of a vector, from values that are `stride` apart; the other lanes become 0.
template <typename T>
IGAN_FAST_INLINE V gather(const T* from, int64_t stride, int64_t lanes) {
  V v{};
  if (lanes >= kLanes<float>)
    for (int i = 0; i < kLanes<float>; ++i) v[i] = to_float(from[i * stride]);
  else
    for (int i = 0; i < kLanes<float>; ++i) v[i] = i < lanes ? to_float(from[i * stride]) : 0;
  return v;
}

template <typename F>
void transform_filter(int64_t small_channels, int64_t large_channels, const FilterStrides& strides, Values weight,
                      bool transposed, float* out, ParallelFor parallel_for) {
  const Filter<F> f(small_channels, large_channels, transposed);
  const int64_t in = transposed ? strides.small : strides.large, channel = transposed ? strides.large : strides.small;
  int64_t row_at[F::kKernel], column_at[F::kKernel];
  for (int k = 0; k < F::kKernel; ++k) {
    const int tap = transposed ? F::reversed(k) : k;
    row_at[k] = tap * strides.row, column_at[k] = tap * strides.column;
  }
  // The results of kTasks tasks are collected in scratch, and then copied to each plane by streaming stores. Without
  // that, consecutive stores would go to different planes, and each store would wait for its cache line.
  constexpr int64_t kTasks = 16, kRow = kTasks * kPanel + 16;
  const bool aligned = reinterpret_cast<uintptr_t>(out) % 64 == 0;
  parallel(parallel_for, f.panels * f.depth, 64, [&](int64_t begin, int64_t end) {
    const Scratch scratch(f.kPlanes * kRow);
    float* const rows = scratch.data();
    for (int64_t first = begin; first < end; first += kTasks) {
      const int64_t count = std::min(kTasks, end - first);
      for (int64_t task = first; task < first + count; ++task)
        for (int64_t vector = 0; vector < kPanel; vector += kLanes<float>) {
          const int64_t lane = task / f.depth * kPanel + vector, lanes = f.channels - lane;
          const int64_t from = task % f.depth * in + lane * channel;
          float* to = rows + (task - first) * kPanel + vector;
          const auto transform = [&](auto is_float) IGAN_FAST_INLINE_LAMBDA {
            transform_2d<typename F::FilterTransform>(
                [&](int row, int column) IGAN_FAST_INLINE_LAMBDA {
                  if (lanes <= 0) return V{};
                  return with_address<is_float()>(weight, from + row_at[row] + column_at[column],
                                                  [&](auto at)
                                                      IGAN_FAST_INLINE_LAMBDA { return gather(at, channel, lanes); });
                },
                [&](int row, int column, V v)
                    IGAN_FAST_INLINE_LAMBDA { store<false>(to + (F::kProducts * row + column) * kRow, v); });
          };
          weight.dtype == Dtype::Float ? transform(std::true_type{}) : transform(std::false_type{});
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
