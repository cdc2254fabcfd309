// norm_act forward on contiguous tensors.

// Adds the moments of one block.
template <typename T>
void block_moments(const T* x, const Blocks& blocks, int64_t block, int64_t row_stride, Moments& moments) {
  using A = typename AccOf<T>::type;
  constexpr int L = kLanes<A>;
  int64_t count = 0;
  Vec<A> sums[4] = {};
  for_each_chunk(blocks, block, row_stride, [&](int64_t, int64_t offset, int64_t length) IGAN_FAST_INLINE_LAMBDA {
    const T* chunk = x + offset;
    int64_t i = 0;
    for (; i + 4 * L <= length; i += 4 * L)
      unroll<4>([&](int k) IGAN_FAST_INLINE_LAMBDA { sums[k] += load(chunk + i + k * L); });
    for (; i + L <= length; i += L) sums[0] += load(chunk + i);
    if (i < length) sums[1] += load_partial(chunk + i, length - i);
    count += length;
  });
  const double n = static_cast<double>(count);
  const A shift = static_cast<A>(
      (sum_lanes<A>(sums[0]) + sum_lanes<A>(sums[1]) + sum_lanes<A>(sums[2]) + sum_lanes<A>(sums[3])) / n);
  Vec<A> firsts[2] = {}, squares[2] = {};
  for_each_chunk(blocks, block, row_stride, [&](int64_t, int64_t offset, int64_t length) IGAN_FAST_INLINE_LAMBDA {
    const T* chunk = x + offset;
    int64_t i = 0;
    for (; i + 2 * L <= length; i += 2 * L)
      unroll<2>([&](int k) IGAN_FAST_INLINE_LAMBDA {
        const Vec<A> d = load(chunk + i + k * L) - shift;
        firsts[k] += d;
        squares[k] += d * d;
      });
    for (; i < length; i += L) {
      const int64_t lanes = length - i < L ? length - i : L;
      const Vec<A> d =
          lanes == L ? load(chunk + i) - shift : keep_lanes<A>(load_partial(chunk + i, lanes) - shift, lanes);
      firsts[0] += d;
      squares[0] += d * d;
    }
  });
  const double first = sum_lanes<A>(firsts[0]) + sum_lanes<A>(firsts[1]);
  const double square = sum_lanes<A>(squares[0]) + sum_lanes<A>(squares[1]);
  moments.merge(n, static_cast<double>(shift) + first / n, square - first * first / n);
}

// film: of the group's first image, (images, 2, channels); read with kFilm only.
template <bool kStream, bool kFilm, typename T, typename A>
void apply_block(const T* x, T* y, Affine<A> f, const A* film, int64_t channels, const Blocks& blocks, int64_t block,
                 int64_t row_stride) {
  constexpr int L = kLanes<A>;
  for_each_chunk(blocks, block, row_stride,
                 [&](int64_t number, int64_t offset, int64_t length) IGAN_FAST_INLINE_LAMBDA {
                   Film<A> m{1, 0};
                   if constexpr (kFilm) m = film_of(film, channels, number / blocks.pieces, 0);
                   const auto one = [&](Vec<A> value) IGAN_FAST_INLINE_LAMBDA {
                     const Vec<A> a = activate((value - f.mean) * f.scale + f.bias, f.slope);
                     if constexpr (kFilm) return a * m.scale + m.shift;
                     return a;
                   };
                   int64_t i = offset;
                   const int64_t end = offset + length;
                   for (; i + 2 * L <= end; i += 2 * L)
                     store_pair<kStream>(y + i, one(load(x + i)), one(load(x + i + L)));
                   for (; i + L <= end; i += L) store<kStream>(y + i, one(load(x + i)));
                   if (i < end) store_partial(y + i, one(load_partial(x + i, end - i)), end - i);
                 });
}

// Writes mean and var with batch_statistics, else reads them. Without y, computes only mean and var.
template <typename T>
void forward(const NormShape& s, const T* x, const NormParams<typename AccOf<T>::type>& params, T* y,
             typename AccOf<T>::type* mean, typename AccOf<T>::type* var, bool batch_statistics,
             ParallelFor parallel_for) {
  using A = typename AccOf<T>::type;
  const Blocks blocks = blocks_of(s);
  const Tasks tasks = tasks_of(s, blocks);
  const int64_t row_stride = s.channels * s.inner;
  const bool stream = streams(s, y);
  const auto write = params.film ? (stream ? &apply_block<true, true, T, A> : &apply_block<false, true, T, A>)
                                 : (stream ? &apply_block<true, false, T, A> : &apply_block<false, false, T, A>);
  const auto moments_of = [&](int64_t channel, int64_t segment) {
    Moments moments;
    for (int64_t b = tasks.first_block(segment); b < tasks.first_block(segment + 1); ++b)
      block_moments(x + offset_of(s, channel), blocks, b, row_stride, moments);
    return moments;
  };
  const auto store_statistics = [&](int64_t channel, const Moments& moments) {
    mean[channel] = static_cast<A>(moments.mean);
    var[channel] = static_cast<A>(moments.m2 / moments.count);
    if (std::isfinite(moments.mean)) return;
    double sum = 0;  // merging turns infinities into NaN; compute the mean by a plain sum, as PyTorch
    for (int64_t row = 0; row < s.rows; ++row)
      for (int64_t i = 0; i < s.inner; ++i)
        sum += static_cast<double>(to_float(x[offset_of(s, channel) + row * row_stride + i]));
    mean[channel] = static_cast<A>(sum / moments.count);
  };
  // From the last block to the first, because the cache still holds the values that the statistics have read last.
  const auto apply = [&](int64_t channel, int64_t segment) {
    const int64_t c = channel % s.channels;
    const Affine<A> f = {mean[channel], params.weight[c] * inverse_std(var[channel], params.eps), params.bias[c],
                         params.slope};
    const T* in = x + offset_of(s, channel);
    T* out = y + offset_of(s, channel);
    const A* film = params.film ? params.film + film_offset_of(s, channel) : nullptr;
    for (int64_t b = tasks.first_block(segment + 1) - 1; b >= tasks.first_block(segment); --b)
      write(in, out, f, film, s.channels, blocks, b, row_stride);
  };
  const int64_t grain = 1 + kSegmentValues / (s.values() / tasks.segments + 1);

  if (tasks.segments == 1) {
    parallel(parallel_for, tasks.channels, grain, [&](int64_t begin, int64_t end) {
      for (int64_t channel = begin; channel < end; ++channel) {
        if (batch_statistics) store_statistics(channel, moments_of(channel, 0));
        if (y) apply(channel, 0);
      }
      if (stream) end_streams();
    });
    return;
  }
  if (batch_statistics) {
    const std::unique_ptr<Moments[]> partial(new Moments[static_cast<size_t>(tasks.channels * tasks.segments)]);
    parallel(parallel_for, tasks.channels * tasks.segments, grain, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) partial[t] = moments_of(t / tasks.segments, t % tasks.segments);
    });
    for (int64_t channel = 0; channel < tasks.channels; ++channel) {
      Moments moments;
      for (int64_t t = channel * tasks.segments; t < (channel + 1) * tasks.segments; ++t)
        moments.merge(partial[t].count, partial[t].mean, partial[t].m2);
      store_statistics(channel, moments);
    }
  }
  if (!y) return;
  parallel(parallel_for, tasks.channels * tasks.segments, grain, [&](int64_t begin, int64_t end) {
    for (int64_t t = end - 1; t >= begin; --t) apply(t / tasks.segments, t % tasks.segments);
    if (stream) end_streams();
  });
}
