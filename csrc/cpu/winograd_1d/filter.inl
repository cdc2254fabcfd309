// The filter transform.

// The layout of a transformed filter of one group. A plane is divided into panels of kRows output channels, each a
// matrix (parts, in channels, kRows), as multiply() reads it.
template <typename F>
struct Filter {
  int64_t parts, in_channels, out_channels, panels, panel, plane;

  explicit Filter(const Layer& layer)
      : parts(layer.parts.count),
        in_channels(layer.in.channels),
        out_channels(layer.out.channels),
        panels(divided_up(out_channels, kRows)),
        panel(parts * in_channels * kRows),
        plane(plane_size(panels, panel)) {}

  int64_t size() const { return F::kProducts * plane; }
  int64_t rows(int64_t at) const { return std::min<int64_t>(kRows, out_channels - at * kRows); }
};

// Part p has the taps from 4 · p on: four, or the rest in the last part.
inline int64_t taps_of_part(const Layer& layer, int64_t part) {
  return part + 1 < layer.parts.count ? kTile : layer.kernel - kTile * part;
}

template <typename F>
void transform_filter(const Layer& layer, const Weight1d& weight, int64_t group, float* filters,
                      ParallelFor parallel_for) {
  constexpr int L = kLanes<float>;
  const Filter<F> f(layer);
  float* const filter = filters + group * f.size();
  const int64_t vectors = divided_up(f.in_channels, L), tasks = f.panels * f.parts, stride = layer.stride;
  const float* const weights = weight.data + group * (layer.transposed ? f.in_channels : f.out_channels) * weight.small;
  // The first tap of a channel of the large sequences.
  const auto of_large = [&](int64_t channel) {
    return channel / stride * weight.large + channel % stride * weight.tap;
  };
  parallel(parallel_for, tasks * vectors, 4, [&](int64_t begin, int64_t end) {
    alignas(64) float rows[F::kProducts][kRows][L], w[F::kTaps][L];
    int64_t of_lane[L];
    for (int64_t task = begin; task < end; ++task) {
      const int64_t panel = task / vectors / f.parts, part = task / vectors % f.parts, channel = task % vectors * L;
      const int64_t lanes = std::min<int64_t>(L, f.in_channels - channel), taps = taps_of_part(layer, part);
      for (int64_t lane = 0; lane < lanes; ++lane)
        of_lane[lane] = layer.transposed ? (channel + lane) * weight.small : of_large(channel + lane);
      for (int64_t row = 0; row < kRows; ++row) {
        std::fill(&w[0][0], &w[0][0] + F::kTaps * L, 0.f);
        for (int64_t k = 0; k < taps && row < f.rows(panel); ++k) {
          const int64_t out = panel * kRows + row, in_filter = kTile * part + k;
          const int64_t first_tap = stride * (layer.transposed ? layer.kernel - 1 - in_filter : in_filter);
          const float* from =
              weights + (layer.transposed ? of_large(out) : out * weight.small) + first_tap * weight.tap;
          if (first_tap + stride <= layer.taps)
            for (int64_t lane = 0; lane < lanes; ++lane) w[k][lane] = from[of_lane[lane]];
          else  // the weights have no such tap for some channels
            for (int64_t lane = 0; lane < lanes; ++lane)
              if (first_tap + (layer.transposed ? out : channel + lane) % stride < layer.taps)
                w[k][lane] = from[of_lane[lane]];
        }
        times(
            F::filter, [&](int c) IGAN_FAST_INLINE_LAMBDA { return load(w[c]); },
            [&](int r, V sum) IGAN_FAST_INLINE_LAMBDA { store<false>(&rows[r][row][0], sum); });
      }
      for (int p = 0; p < F::kProducts; ++p)
        transpose_tile(&rows[p][0][0], kRows, lanes, L,
                       filter + p * f.plane + panel * f.panel + (part * f.in_channels + channel) * kRows, kRows);
    }
  });
}
