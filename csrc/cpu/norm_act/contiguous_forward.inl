// norm_act forward on contiguous tensors.

template <typename T, typename A = typename AccOf<T>::type>
A mean_of(const T* x, int64_t count) {
  constexpr int L = kLanes<A>;
  Vec<A> sums[4] = {};
  int64_t i = 0;
  for (; i + 4 * L <= count; i += 4 * L)
    unroll<4>([&](int k) IGAN_FAST_INLINE_LAMBDA { sums[k] += load(x + i + k * L); });
  for (; i + L <= count; i += L) sums[0] += load(x + i);
  if (i < count) sums[1] += load_partial(x + i, count - i);
  return static_cast<A>(sum_lanes((sums[0] + sums[1]) + (sums[2] + sums[3])) / static_cast<double>(count));
}

// Σd and Σd² of a set of values, where d = x − shift.
struct Powers {
  double first, square;
};

// The sums of a block of neighbouring channels.
template <typename T, typename A>
void block_powers(const T* x, const Blocks& blocks, int64_t block, int64_t row_stride, int64_t channels,
                  const A* shifts, Powers* powers) {
  constexpr int L = kLanes<A>;
  Vec<A> firsts[kMaxTogether], squares[kMaxTogether];
  for (int64_t k = 0; k < channels; ++k) firsts[k] = squares[k] = Vec<A>{};
  for_each_chunk(blocks, block, channels, row_stride,
                 [&](int64_t k, int64_t, int64_t offset, int64_t length) IGAN_FAST_INLINE_LAMBDA {
                   const T* chunk = x + offset;
                   const A shift = shifts[k];
                   Vec<A> first[4] = {}, square[4] = {};
                   const auto add = [&](Vec<A> d, int at) IGAN_FAST_INLINE_LAMBDA {
                     first[at] += d;
                     square[at] += d * d;
                   };
                   int64_t i = 0;
                   for (; i + 4 * L <= length; i += 4 * L)
                     unroll<4>([&](int at) IGAN_FAST_INLINE_LAMBDA { add(load(chunk + i + at * L) - shift, at); });
                   for (; i + L <= length; i += L) add(load(chunk + i) - shift, 0);
                   if (i < length) add(keep_lanes<A>(load_partial(chunk + i, length - i) - shift, length - i), 1);
                   firsts[k] += (first[0] + first[1]) + (first[2] + first[3]);
                   squares[k] += (square[0] + square[1]) + (square[2] + square[3]);
                 });
  for (int64_t k = 0; k < channels; ++k) powers[k] = {sum_lanes(firsts[k]), sum_lanes(squares[k])};
}

// Adds a block to the moments of neighbouring channels.
//
// The squares are taken about the mean of a channel's earlier values, so that the block is read only once. If this mean
// differs from the block's mean by more than a standard deviation, too many digits would be lost. Then the block is
// read again, and the squares are taken about its own mean. The second time is for a mean so far away that the first
// one had no digits left for the difference.
template <typename T>
void block_moments(const T* x, const Blocks& blocks, int64_t block, int64_t row_stride, int64_t channels,
                   Moments* moments) {
  using A = typename AccOf<T>::type;
  A shifts[kMaxTogether] = {};
  Powers powers[kMaxTogether];
  const int64_t count = blocks.values(block);
  const double n = static_cast<double>(count);
  for (int64_t k = 0; k < channels; ++k)
    shifts[k] = moments[k].count > 0 ? static_cast<A>(moments[k].mean)
                                     : mean_of(x + k * blocks.inner, std::min(blocks.inner, count));
  block_powers(x, blocks, block, row_stride, channels, shifts, powers);
  for (int64_t k = 0; k < channels; ++k) {
    Powers& p = powers[k];
    for (int again = 0; again < 2 && 2 * p.first * p.first > n * p.square; ++again) {
      shifts[k] = static_cast<A>(static_cast<double>(shifts[k]) + p.first / n);
      block_powers(x + k * blocks.inner, blocks, block, row_stride, 1, &shifts[k], &p);
    }
    moments[k].merge(n, static_cast<double>(shifts[k]) + p.first / n, p.square - p.first * p.first / n);
  }
}

// film: of the group's first image and the first channel, (images, 2, all channels); read with kFilm only.
template <bool kStream, bool kFilm, typename T, typename A>
void apply_block(const T* x, T* y, const Affine<A>* affine, const A* film, int64_t all_channels, const Blocks& blocks,
                 int64_t block, int64_t row_stride, int64_t channels) {
  constexpr int L = kLanes<A>;
  for_each_chunk(blocks, block, channels, row_stride,
                 [&](int64_t k, int64_t number, int64_t offset, int64_t length) IGAN_FAST_INLINE_LAMBDA {
                   const Affine<A> f = affine[k];
                   Film<A> m{1, 0};
                   if constexpr (kFilm) m = film_of(film, all_channels, number / blocks.pieces, k);
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
  const int64_t row_stride = s.channels * s.inner, together = channels_together(s, 1, sizeof(T));
  const bool stream = streams(s, y);
  const auto write = params.film ? (stream ? &apply_block<true, true, T, A> : &apply_block<false, true, T, A>)
                                 : (stream ? &apply_block<true, false, T, A> : &apply_block<false, false, T, A>);
  const auto add_moments = [&](int64_t first, int64_t count, int64_t segment, Moments* moments) {
    for (int64_t b = tasks.first_block(segment); b < tasks.first_block(segment + 1); ++b)
      block_moments(x + offset_of(s, first), blocks, b, row_stride, count, moments);
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
  const auto apply = [&](int64_t first, int64_t count, int64_t segment) {
    Affine<A> affine[kMaxTogether];
    affine_of(s, params, mean, var, first, count, affine);
    const T* in = x + offset_of(s, first);
    T* out = y + offset_of(s, first);
    const A* film = params.film ? params.film + film_offset_of(s, first) : nullptr;
    for (int64_t b = tasks.first_block(segment + 1) - 1; b >= tasks.first_block(segment); --b)
      write(in, out, affine, film, s.channels, blocks, b, row_stride, count);
  };
  const int64_t grain = 1 + kSegmentValues / (s.values() / tasks.segments + 1);

  if (tasks.segments == 1) {
    parallel(parallel_for, tasks.channels, grain, [&](int64_t begin, int64_t end) {
      for_each_together(s, together, begin, end, [&](int64_t first, int64_t count) {
        if (batch_statistics) {
          Moments moments[kMaxTogether];
          add_moments(first, count, 0, moments);
          for (int64_t k = 0; k < count; ++k) store_statistics(first + k, moments[k]);
        }
        if (y) apply(first, count, 0);
      });
      if (stream) end_streams();
    });
    return;
  }
  if (batch_statistics) {
    const std::unique_ptr<Moments[]> partial(new Moments[static_cast<size_t>(tasks.channels * tasks.segments)]);
    parallel(parallel_for, tasks.channels * tasks.segments, grain, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) add_moments(t / tasks.segments, 1, t % tasks.segments, &partial[t]);
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
    for (int64_t t = end - 1; t >= begin; --t) apply(t / tasks.segments, 1, t % tasks.segments);
    if (stream) end_streams();
  });
}
