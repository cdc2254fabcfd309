// The gradients of the weight and of the bias.

constexpr int64_t kMaxParts = 32;       // into which the rows of the features are divided; each has its own sums
constexpr int64_t kMinRowsPerPart = 4;  // adding up the parts must not cost more than their sums

// The values of a window whose sums are in registers at the same time, with N vectors of channels each.
template <int N>
constexpr int kMaxTaps = IGAN_FAST_ISA_LEVEL == 2 ? (N == 1 ? 16 : 24 / N) : (N == 1 ? 8 : 6);

// sums += the products of R values of the windows with N vectors of channels, summed over a row's positions. window: of
// the first position; sums: (R, channels).
template <int N, int R>
void sum_positions(const float* window, int64_t window_step, const float* features, int64_t features_step,
                   int64_t positions, float* sums, int64_t sums_step) {
  V products[R][N] = {};
  for (int64_t x = 0; x < positions; ++x, window += window_step, features += features_step) {
    V values[N];
    unroll<N>([&](int v) IGAN_FAST_INLINE_LAMBDA { values[v] = load(features + v * L); });
    unroll<R>([&](int r) IGAN_FAST_INLINE_LAMBDA {
      const V factor = broadcast(window[r]);
      unroll<N>([&](int v) IGAN_FAST_INLINE_LAMBDA { products[r][v] += factor * values[v]; });
    });
  }
  unroll<R>([&](int r) IGAN_FAST_INLINE_LAMBDA {
    unroll<N>([&](int v) IGAN_FAST_INLINE_LAMBDA {
      float* const to = sums + r * sums_step + v * L;
      store<false>(to, load(to) + products[r][v]);
    });
  });
}

using SumPositions = void (*)(const float*, int64_t, const float*, int64_t, int64_t, float*, int64_t);

template <int N, int... r>
constexpr std::array<SumPositions, sizeof...(r)> sum_table(std::integer_sequence<int, r...>) {
  return {&sum_positions<N, r + 1>...};
}

// sums += a row of features, summed over its positions. channels is a multiple of L.
inline void sum_row(const float* features, int64_t step, int64_t positions, int64_t channels, float* sums) {
  for (int64_t c = 0; c < channels; c += L) {
    V sum{};
    for (int64_t x = 0; x < positions; ++x) sum += load(features + x * step + c);
    store<false>(sums + c, load(sums + c) + sum);
  }
}

void weight_gradient(const DirectShape& s, const ImageStrides& strides, const float* image, const Features& features,
                     float* weight, float* bias, ParallelFor parallel_for) {
  const int64_t run = s.kernel_width * s.image_channels, step = s.stride_width * s.image_channels;
  const int64_t taps = s.kernel_height * run, lanes = round_up(s.channels, L);
  const int64_t rows = s.batch * s.height, parts = std::max<int64_t>(std::min(rows / kMinRowsPerPart, kMaxParts), 1);
  const int64_t part_size = (taps + 1) * lanes;  // (taps and the bias, channels)
  const Scratch partial(parts * part_size);
  parallel(parallel_for, parts, 1, [&](int64_t begin, int64_t end) {
    const int64_t image_size = PaddedRows::size(s, s.width);
    const Scratch scratch(image_size + FeatureRows::size(s, 1, L));
    PaddedRows image_rows(s, strides, image, s.width, scratch.data());
    FeatureRows feature_rows(s, features, 1, L, scratch.data() + image_size);
    for (int64_t part = begin; part < end; ++part) {
      float* const sums = partial.data() + part * part_size;
      std::fill_n(sums, part_size, 0.f);
      for (int64_t row = rows * part / parts; row < rows * (part + 1) / parts; ++row) {
        const float* const* windows = image_rows.at(row / s.height, row % s.height);
        const float* const in = feature_rows.at(row / s.height, row % s.height);
        if (bias) sum_row(in, lanes, s.width, lanes, sums + taps * lanes);
        for_each_channel_group(lanes, [&](auto vectors, int64_t first) {
          constexpr int N = decltype(vectors)::value;
          static constexpr auto table = sum_table<N>(std::make_integer_sequence<int, kMaxTaps<N>>{});
          const int64_t groups = (run + kMaxTaps<N> - 1) / kMaxTaps<N>;
          for (int64_t k = 0; k < s.kernel_height; ++k)
            for (int64_t g = 0; g < groups; ++g) {
              const int64_t tap = run * g / groups, count = run * (g + 1) / groups - tap;
              table[static_cast<size_t>(count - 1)](windows[k] + tap, step, in + first, lanes, s.width,
                                                    sums + (k * run + tap) * lanes + first, lanes);
              feature_rows.fetch_next(s.width * s.channels / (s.kernel_height * groups) + 1);
            }
        });
      }
    }
  });
  float* const total = partial.data();
  for (int64_t part = 1; part < parts; ++part) {
    const float* const sums = total + part * part_size;
    for (int64_t i = 0; i < part_size; ++i) total[i] += sums[i];
  }
  for (int64_t f = 0; f < s.channels; ++f)
    for (int64_t c = 0; c < s.image_channels; ++c)
      for (int64_t i = 0; i < s.kernel_height; ++i)
        for (int64_t j = 0; j < s.kernel_width; ++j)
          *weight++ = total[(i * run + j * s.image_channels + c) * lanes + f];
  if (bias) std::copy_n(total + taps * lanes, s.channels, bias);
}
