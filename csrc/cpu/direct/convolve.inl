// The convolution from the image to the features.

// The positions whose sums are in registers at the same time, with N vectors of channels each.
template <int N>
constexpr int kPositions = N == 1 ? 8 : (IGAN_FAST_ISA_LEVEL == 2 ? 16 : 12) / N;
constexpr int kMostPositions = 8;

struct Epilogue {
  const float* bias;  // of the first channel
  float slope;
  int64_t positions, channels;  // that are stored
};

// N vectors of channels at kPositions<N> positions. rows: of the image, at the first position; filter: (kernel height ×
// depth, N vectors).
template <int N>
void convolve_positions(const DirectShape& s, const float* const* rows, int64_t offset, const float* filter,
                        const Epilogue& e, float* out) {
  constexpr int R = kPositions<N>;
  const int64_t depth = s.kernel_width * s.image_channels, step = s.stride_width * s.image_channels;
  V sums[R][N] = {};
  for (int64_t k = 0; k < s.kernel_height; ++k) {
    const float* in = rows[k] + offset;
    for (int64_t j = 0; j < depth; ++j, ++in, filter += N * L) {
      V weights[N];
      unroll<N>([&](int v) IGAN_FAST_INLINE_LAMBDA { weights[v] = load(filter + v * L); });
      unroll<R>([&](int r) IGAN_FAST_INLINE_LAMBDA {
        const V value = broadcast(in[r * step]);
        unroll<N>([&](int v) IGAN_FAST_INLINE_LAMBDA { sums[r][v] += value * weights[v]; });
      });
    }
  }
  unroll<R>([&](int r) IGAN_FAST_INLINE_LAMBDA {
    if (r >= e.positions) return;
    unroll<N>([&](int v) IGAN_FAST_INLINE_LAMBDA {
      const V z = activate(sums[r][v] + load(e.bias + v * L), e.slope);
      float* to = out + r * s.channels + v * L;
      const int64_t lanes = e.channels - v * L;
      if (lanes < L)
        store_partial(to, z, lanes);
      else
        store<false>(to, z);
    });
  });
}

void convolve(const DirectShape& s, const ImageStrides& strides, const float* image, const WeightStrides& w,
              const float* weight, const float* bias, float slope, float* features, ParallelFor parallel_for) {
  const int64_t taps = s.kernel_height * s.kernel_width * s.image_channels, lanes = round_up(s.channels, L);
  const Scratch packed((taps + 1) * lanes);
  float* const filter = packed.data();  // of each group of channels: (taps, its channels)
  float* const biases = filter + taps * lanes;
  std::fill_n(filter, (taps + 1) * lanes, 0.f);
  for (int64_t f = 0; f < s.channels; ++f) {
    const int64_t group = f / kChannelGroup * kChannelGroup, width = std::min(lanes - group, kChannelGroup);
    float* to = filter + group * taps + (f - group);
    for (int64_t i = 0; i < s.kernel_height; ++i)
      for (int64_t j = 0; j < s.kernel_width; ++j)
        for (int64_t c = 0; c < s.image_channels; ++c, to += width)
          *to = weight[f * w.channel + c * w.image_channel + i * w.row + j * w.column];
    if (bias) biases[f] = bias[f];
  }
  const int64_t positions = s.width + kMostPositions;
  parallel(parallel_for, s.batch * s.height, 4, [&](int64_t begin, int64_t end) {
    const Scratch scratch(PaddedRows::size(s, positions));
    PaddedRows image_rows(s, strides, image, positions, scratch.data());
    for (int64_t row = begin; row < end; ++row) {
      const float* const* rows = image_rows.at(row / s.height, row % s.height);
      float* const out = features + row * s.width * s.channels;
      for_each_channel_group(s.channels, [&](auto vectors, int64_t first) {
        constexpr int N = decltype(vectors)::value;
        for (int64_t x = 0; x < s.width; x += kPositions<N>)
          convolve_positions<N>(s, rows, x * s.stride_width * s.image_channels, filter + first * taps,
                                {biases + first, slope, s.width - x, s.channels - first}, out + x * s.channels + first);
      });
    }
  });
}
