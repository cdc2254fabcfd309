// norm_act backward on contiguous tensors.

// Film and its gradient, of neighbouring channels in the images of a group: `values` is (images, 2, all channels) from
// the first of them on, and `sums` is (images, 2, all channels, pieces), with one sum for each chunk.
template <typename A>
struct ChannelFilm {
  const A* values;
  A* sums;
  int64_t channels, pieces;

  // `number` is that of the chunk of channel k, see for_each_chunk.
  Film<A> of(int64_t k, int64_t number) const { return film_of(values, channels, number / pieces, k); }
  void store_sums(int64_t k, int64_t number, double sum_scale, double sum_shift) const {
    A* to = sums + (number / pieces * 2 * channels + k) * pieces + number % pieces;
    to[0] = static_cast<A>(sum_scale);
    to[channels * pieces] = static_cast<A>(sum_shift);
  }
};

// The first `count` lanes of v, and 0 in the others. Lanes past the end are 0, but an infinite factor makes them NaN.
template <typename A>
IGAN_FAST_INLINE Vec<A> first_lanes(Vec<A> v, int64_t count) {
  A lanes[kLanes<A>];
  store<false>(lanes, v);
  return load_partial(lanes, count);
}

// Adds a block's Σ dz and Σ dz·(x − mean) of neighbouring channels, where dz is the gradient of z, the LeakyReLU's
// input. With kFilm, also stores the sums of each chunk that give the gradient of the film.
template <bool kFilm, typename T, typename A>
void block_sums(const T* grad, const T* x, const Affine<A>* affine, const ChannelFilm<A>& film, const Blocks& blocks,
                int64_t block, int64_t row_stride, int64_t channels, GradientSums* totals) {
  constexpr int L = kLanes<A>;
  Vec<A> sums[kMaxTogether], products[kMaxTogether];
  for (int64_t k = 0; k < channels; ++k) sums[k] = products[k] = Vec<A>{};
  for_each_chunk(blocks, block, channels, row_stride,
                 [&](int64_t k, int64_t number, int64_t offset, int64_t length) IGAN_FAST_INLINE_LAMBDA {
                   const Affine<A> f = affine[k];
                   Film<A> m{1, 0};
                   if constexpr (kFilm) m = film.of(k, number);
                   Vec<A> sum[2] = {}, product[2] = {}, scale_sum[2] = {}, shift_sum[2] = {};
                   const auto add = [&](Vec<A> value, Vec<A> g, int at, auto lanes) IGAN_FAST_INLINE_LAMBDA {
                     const Vec<A> centred = value - f.mean;
                     const Vec<A> z = centred * f.scale + f.bias;
                     if constexpr (kFilm) {
                       scale_sum[at] += lanes(g * activate(z, f.slope));
                       shift_sum[at] += g;
                       g = lanes(g * m.scale);
                     }
                     const Vec<A> dz = activate_backward(z, g, f.slope);
                     sum[at] += dz;
                     product[at] += dz * centred;
                   };
                   int64_t i = offset;
                   const int64_t end = offset + length;
                   const auto all = [](Vec<A> v) IGAN_FAST_INLINE_LAMBDA { return v; };
                   for (; i + 2 * L <= end; i += 2 * L) {
                     add(load(x + i), load(grad + i), 0, all);
                     add(load(x + i + L), load(grad + i + L), 1, all);
                   }
                   for (; i + L <= end; i += L) add(load(x + i), load(grad + i), 0, all);
                   if (i < end)  // lanes past the end have gradient 0 and add nothing
                     add(load_partial(x + i, end - i), load_partial(grad + i, end - i), 1,
                         [&](Vec<A> v) IGAN_FAST_INLINE_LAMBDA { return first_lanes<A>(v, end - i); });
                   if constexpr (kFilm)
                     film.store_sums(k, number, sum_lanes(scale_sum[0]) + sum_lanes(scale_sum[1]),
                                     sum_lanes(shift_sum[0]) + sum_lanes(shift_sum[1]));
                   sums[k] += sum[0] + sum[1];
                   products[k] += product[0] + product[1];
                 });
  for (int64_t k = 0; k < channels; ++k) {
    totals[k].dz += sum_lanes(sums[k]);
    totals[k].dz_x += sum_lanes(products[k]);
  }
}

template <bool kStream, bool kBatchStatistics, bool kFilm, typename T, typename A>
void gradient_block(const T* grad, const T* x, T* dx, const Affine<A>* affine, const Gradient<A>* gradients,
                    const ChannelFilm<A>& film, const Blocks& blocks, int64_t block, int64_t row_stride,
                    int64_t channels) {
  constexpr int L = kLanes<A>;
  for_each_chunk(blocks, block, channels, row_stride,
                 [&](int64_t k, int64_t number, int64_t offset, int64_t length) IGAN_FAST_INLINE_LAMBDA {
                   const Affine<A> f = affine[k];
                   const Gradient<A> gradient = gradients[k];
                   Film<A> m{1, 0};
                   if constexpr (kFilm) m = film.of(k, number);
                   const auto one = [&](Vec<A> value, Vec<A> g) IGAN_FAST_INLINE_LAMBDA {
                     const Vec<A> centred = value - f.mean;
                     if constexpr (kFilm) g = g * m.scale;
                     const Vec<A> dz = activate_backward(centred * f.scale + f.bias, g, f.slope);
                     if constexpr (!kBatchStatistics) return dz * f.scale;
                     return dz * f.scale - gradient.mean_term - centred * gradient.var_term;
                   };
                   int64_t i = offset;
                   const int64_t end = offset + length;
                   for (; i + 2 * L <= end; i += 2 * L)
                     store_pair<kStream>(dx + i, one(load(x + i), load(grad + i)),
                                         one(load(x + i + L), load(grad + i + L)));
                   for (; i + L <= end; i += L) store<kStream>(dx + i, one(load(x + i), load(grad + i)));
                   if (i < end)
                     store_partial(dx + i, one(load_partial(x + i, end - i), load_partial(grad + i, end - i)), end - i);
                 });
}

// The variant of gradient_block that a call needs.
template <typename T, typename A>
auto gradient_block_for(bool stream, bool batch_statistics, bool film) {
  const auto choose = [&](auto has_film) {
    constexpr bool kFilm = decltype(has_film)::value;
    if (batch_statistics)
      return stream ? &gradient_block<true, true, kFilm, T, A> : &gradient_block<false, true, kFilm, T, A>;
    return stream ? &gradient_block<true, false, kFilm, T, A> : &gradient_block<false, false, kFilm, T, A>;
  };
  return film ? choose(std::true_type{}) : choose(std::false_type{});
}

// Computes one half or both: writes total, (groups, channels), and dfilm; or reads total, over `count` values each, and
// writes dx.
template <typename T>
void backward(const NormShape& s, const T* grad, const T* x, const NormParams<typename AccOf<T>::type>& params,
              const typename AccOf<T>::type* mean, const typename AccOf<T>::type* var, bool batch_statistics,
              Halves half, GradientSums* total, double count, T* dx, typename AccOf<T>::type* dfilm,
              ParallelFor parallel_for) {
  using A = typename AccOf<T>::type;
  const Blocks blocks = blocks_of(s);
  const Tasks tasks = tasks_of(s, blocks);
  const int64_t row_stride = s.channels * s.inner, together = channels_together(s, 2, sizeof(T));
  const bool stream = streams(s, dx);
  // Each image and channel has one sum per piece, which are added up at the end.
  const int64_t film_values = params.film && half.sums ? tasks.channels * s.rows * 2 : 0, pieces = blocks.pieces;
  const std::unique_ptr<A[]> film_pieces(film_values && pieces > 1 ? new A[static_cast<size_t>(film_values * pieces)]
                                                                   : nullptr);
  A* const film_sums = film_pieces ? film_pieces.get() : dfilm;
  const auto film_at = [&](int64_t channel) {
    if (!params.film) return ChannelFilm<A>{};
    const int64_t at = film_offset_of(s, channel);
    return ChannelFilm<A>{params.film + at, film_sums ? film_sums + at * pieces : nullptr, s.channels, pieces};
  };
  const auto add_block_sums = params.film ? &block_sums<true, T, A> : &block_sums<false, T, A>;
  const auto add_sums = [&](int64_t first, int64_t channels, int64_t segment, GradientSums* sums) {
    Affine<A> affine[kMaxTogether];
    affine_of(s, params, mean, var, first, channels, affine);
    const int64_t at = offset_of(s, first);
    for (int64_t b = tasks.first_block(segment); b < tasks.first_block(segment + 1); ++b)
      add_block_sums(grad + at, x + at, affine, film_at(first), blocks, b, row_stride, channels, sums);
  };
  const auto write_gradient = gradient_block_for<T, A>(stream, batch_statistics, params.film);
  const auto apply = [&](int64_t first, int64_t channels, int64_t segment) {
    Affine<A> affine[kMaxTogether];
    affine_of(s, params, mean, var, first, channels, affine);
    Gradient<A> gradients[kMaxTogether];
    for (int64_t k = 0; k < channels; ++k)
      gradients[k] = gradient_of(affine[k].scale, inverse_std(var[first + k], params.eps), total[first + k], count,
                                 batch_statistics);
    const int64_t at = offset_of(s, first);
    for (int64_t b = tasks.first_block(segment + 1) - 1; b >= tasks.first_block(segment); --b)
      write_gradient(grad + at, x + at, dx + at, affine, gradients, film_at(first), blocks, b, row_stride, channels);
  };
  const int64_t grain = 1 + kSegmentValues / (s.values() / tasks.segments + 1);

  if (tasks.segments == 1) {
    parallel(parallel_for, tasks.channels, grain, [&](int64_t begin, int64_t end) {
      for_each_together(s, together, begin, end, [&](int64_t first, int64_t channels) {
        if (half.sums) {
          std::fill_n(total + first, channels, GradientSums{});
          add_sums(first, channels, 0, total + first);
        }
        if (half.gradient) apply(first, channels, 0);
      });
      if (stream) end_streams();
    });
  } else {
    if (half.sums) {
      const std::unique_ptr<GradientSums[]> partial(
          new GradientSums[static_cast<size_t>(tasks.channels * tasks.segments)]);
      parallel(parallel_for, tasks.channels * tasks.segments, grain, [&](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t) add_sums(t / tasks.segments, 1, t % tasks.segments, &partial[t]);
      });
      for (int64_t channel = 0; channel < tasks.channels; ++channel) {
        GradientSums sums;
        for (int64_t t = channel * tasks.segments; t < (channel + 1) * tasks.segments; ++t) {
          sums.dz += partial[t].dz;
          sums.dz_x += partial[t].dz_x;
        }
        total[channel] = sums;
      }
    }
    if (half.gradient)
      parallel(parallel_for, tasks.channels * tasks.segments, grain, [&](int64_t begin, int64_t end) {
        for (int64_t t = end - 1; t >= begin; --t) apply(t / tasks.segments, 1, t % tasks.segments);
        if (stream) end_streams();
      });
  }
  if (film_pieces)
    for (int64_t i = 0; i < film_values; ++i) {
      double sum = 0;
      for (int64_t piece = 0; piece < pieces; ++piece) sum += static_cast<double>(film_pieces[i * pieces + piece]);
      dfilm[i] = static_cast<A>(sum);
    }
}
