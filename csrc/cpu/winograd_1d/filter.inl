// The filter transform.

// The layout of a transformed filter. A plane is divided into groups of kRows output channels, each a matrix (parts, in
// channels, kRows), as multiply() reads it.
template <typename F>
struct Filter {
  int64_t parts, in_channels, out_channels, groups, group, plane;

  Filter(int64_t kernel, int64_t in_channels_, int64_t out_channels_)
      : parts(parts_of(kernel).count),
        in_channels(in_channels_),
        out_channels(out_channels_),
        groups(divided_up(out_channels, kRows)),
        group(parts * in_channels * kRows),
        plane(plane_size(groups, group)) {}

  int64_t size() const { return F::kProducts * plane; }
  int64_t rows(int64_t g) const { return std::min<int64_t>(kRows, out_channels - g * kRows); }
};

// The taps of a part are those from 4 · part on, but for the taps of the next one.
template <typename F>
constexpr int64_t taps_of_part(int64_t kernel, int64_t parts, int64_t part) {
  return part + 1 < parts ? kTile : kernel - kTile * part;
}

template <typename F>
void transform_filter(int64_t kernel, int64_t in_channels, int64_t out_channels, const Weight1d& weight, float* filter,
                      ParallelFor parallel_for) {
  constexpr int L = kLanes<float>;
  const Filter<F> f(kernel, in_channels, out_channels);
  const int64_t vectors = divided_up(in_channels, L), tasks = f.groups * f.parts;
  parallel(parallel_for, tasks * vectors, 4, [&](int64_t begin, int64_t end) {
    alignas(64) float rows[F::kProducts][kRows][L], w[F::kTaps][L];
    for (int64_t task = begin; task < end; ++task) {
      const int64_t g = task / vectors / f.parts, part = task / vectors % f.parts, channel = task % vectors * L;
      const int64_t lanes = std::min<int64_t>(L, in_channels - channel);
      const int64_t taps = taps_of_part<F>(kernel, f.parts, part);
      for (int64_t row = 0; row < kRows; ++row) {
        std::fill(&w[0][0], &w[0][0] + F::kTaps * L, 0.f);
        if (row < f.rows(g))
          for (int64_t k = 0; k < taps; ++k) {
            const int64_t tap = kTile * part + k;
            const float* from = weight.data + (g * kRows + row) * weight.out + channel * weight.in +
                                (weight.reversed ? kernel - 1 - tap : tap) * weight.tap;
            for (int64_t lane = 0; lane < lanes; ++lane) w[k][lane] = from[lane * weight.in];
          }
        times(
            F::filter, [&](int c) IGAN_FAST_INLINE_LAMBDA { return load(w[c]); },
            [&](int r, V sum) IGAN_FAST_INLINE_LAMBDA { store<false>(&rows[r][row][0], sum); });
      }
      for (int p = 0; p < F::kProducts; ++p)
        transpose_tile(&rows[p][0][0], kRows, lanes, L,
                       filter + p * f.plane + g * f.group + (part * in_channels + channel) * kRows, kRows);
    }
  });
}
