// norm_act backward on channels_last tensors.

// Adds a span to a segment's sums. For each column, a is Σ dz and b is Σ dz·(x − mean), where dz is the gradient of z,
// the LeakyReLU's input. With kFilm, also stores the span's sums that give the gradient of the film. (They need as many
// registers again, so a strip then has half as many vectors.)
template <bool kFilm, typename T, typename A>
void block_sums(const T* grad, const T* x, const Rows<A>& rows, const Span& span, const ColumnParams<A>& p,
                const ColumnFilm<A>* film, A slope, Segment<A>& segment) {
  constexpr int L = kLanes<A>;
  constexpr int kVectors = kFilm ? kStrip / 2 : kStrip;
  for_each_strip<A, kVectors>(span, [&](int64_t column, int64_t lanes, auto count) IGAN_FAST_INLINE_LAMBDA {
    Vec<A> sums[count()] = {}, products[count()] = {}, scale_sums[count()] = {}, shift_sums[count()] = {};
    for (int64_t r = span.begin; r < span.end; ++r)
      unroll<count()>([&](int k) IGAN_FAST_INLINE_LAMBDA {
        const int64_t j = column + k * L, at = r * rows.width + j;
        const Vec<A> centred = load_lanes(x + at, lanes) - load(p.mean + j);
        const Vec<A> z = centred * load(p.scale + j) + load(p.bias + j);
        Vec<A> g = load_lanes(grad + at, lanes);
        if constexpr (kFilm) {
          scale_sums[k] += g * activate(z, slope);
          shift_sums[k] += g;
          g = g * load(film->scale + j);
        }
        const Vec<A> dz = activate_backward(z, g, slope);
        sums[k] += dz;
        products[k] += dz * centred;
      });
    if constexpr (kFilm)
      unroll<count()>([&](int k) IGAN_FAST_INLINE_LAMBDA {
        store<false>(film->scale_sums + column + k * L, scale_sums[k]);
        store<false>(film->shift_sums + column + k * L, shift_sums[k]);
      });
    unroll<count()>([&](int k) IGAN_FAST_INLINE_LAMBDA {
      for (int l = 0; l < lanes; ++l) {
        segment.a[column + k * L + l] += static_cast<double>(sums[k][l]);
        segment.b[column + k * L + l] += static_cast<double>(products[k][l]);
      }
    });
  });
}

template <bool kStream, bool kBatchStatistics, bool kFilm, typename T, typename A>
void gradient_rows(const T* grad, const T* x, T* dx, const Rows<A>& rows, const Span& span, const ColumnParams<A>& p,
                   const ColumnFilm<A>* film, A slope) {
  // Copies, because the compiler has to expect that a store of 16-bit values changes p.
  const A *const mean = p.mean, *const scales = p.scale, *const bias = p.bias;
  const A *const mean_term = p.mean_term, *const var_term = p.var_term;
  const A* const film_scale = kFilm ? film->scale : nullptr;
  write_vectors<kStream>(dx, rows, span, [&](int64_t at, int64_t column, int64_t lanes) IGAN_FAST_INLINE_LAMBDA {
    const Vec<A> scale = load(scales + column), centred = load_lanes(x + at, lanes) - load(mean + column);
    Vec<A> g = load_lanes(grad + at, lanes);
    if constexpr (kFilm) g = g * load(film_scale + column);
    const Vec<A> dz = activate_backward(centred * scale + load(bias + column), g, slope);
    Vec<A> d = dz * scale;
    if constexpr (kBatchStatistics) d = d - load(mean_term + column) - centred * load(var_term + column);
    return d;
  });
}

// The variant of gradient_rows that a call needs.
template <typename T, typename A>
auto gradient_rows_for(bool stream, bool batch_statistics, bool film) {
  const auto choose = [&](auto has_film) {
    constexpr bool kFilm = decltype(has_film)::value;
    if (batch_statistics)
      return stream ? &gradient_rows<true, true, kFilm, T, A> : &gradient_rows<false, true, kFilm, T, A>;
    return stream ? &gradient_rows<true, false, kFilm, T, A> : &gradient_rows<false, false, kFilm, T, A>;
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
  const Images<A> images(s);
  const Rows<A> rows = params.film ? images.rows : Rows<A>(s);
  const auto write_gradient = gradient_rows_for<T, A>(streams(s, dx), batch_statistics, params.film);
  // Each block of an image has its own sums, (2, channels), which are added up at the end.
  const int64_t film_values = 2 * s.channels, blocks_per_image = images.blocks_per_image();
  const bool add_blocks = params.film && half.sums && blocks_per_image > 1;
  const std::unique_ptr<A[]> film_blocks(
      add_blocks ? new A[static_cast<size_t>(s.groups * images.blocks() * film_values)] : nullptr);
  A* const film_sums = add_blocks ? film_blocks.get() : dfilm;
  const auto add_sums = [&](int64_t g, const ColumnParams<A>& p, ParallelFor in_group) {
    const int64_t at = g * s.values() * s.channels;
    const Segments<A> segments(rows, params.film ? images.segments() : rows.segments());
    if (params.film) {
      for_each_segment_of_images(
          images, segments, params.film + g * images.count * film_values, in_group,
          [&](int64_t block, int64_t offset, const Span& span, const ColumnFilm<A>& columns, Segment<A>& segment) {
            block_sums<true>(grad + at + offset, x + at + offset, rows, span, p, &columns, params.slope, segment);
            A* to = film_sums + (g * images.blocks() + block) * film_values;
            columns.store_sums(rows, span.width, to);
          });
    } else {
      for_each_segment(rows, segments, in_group, [&](const Span& span, Segment<A>& segment) {
        block_sums<false>(grad + at, x + at, rows, span, p, static_cast<const ColumnFilm<A>*>(nullptr), params.slope,
                          segment);
      });
      if (rows.tail)
        block_sums<false>(grad + at, x + at, rows, rows.tail_span(), p, static_cast<const ColumnFilm<A>*>(nullptr),
                          params.slope, segments.list[0]);
    }
    for (int64_t c = 0; c < s.channels; ++c) {
      GradientSums sums;
      for (int64_t i = 0; i < segments.count; ++i)
        for_each_column(rows, c, rows.width, [&](int64_t j) {
          sums.dz += segments.list[i].a[j];
          sums.dz_x += segments.list[i].b[j];
        });
      total[g * s.channels + c] = sums;
    }
  };
  for_each_group(s, parallel_for, [&](int64_t g, ParallelFor in_group) {
    const int64_t at = g * s.values() * s.channels, statistics = g * s.channels;
    ColumnParams<A> p(rows, params, mean + statistics, var + statistics);
    if (half.sums) add_sums(g, p, in_group);
    if (!half.gradient) return;
    for (int64_t c = 0; c < s.channels; ++c) {
      const A invstd = inverse_std(var[statistics + c], params.eps);
      const Gradient<A> gradient =
          gradient_of(p.scale[c * rows.inner], invstd, total[statistics + c], count, batch_statistics);
      for_each_column(rows, c, rows.width, [&](int64_t j) {
        p.mean_term[j] = gradient.mean_term;
        p.var_term[j] = gradient.var_term;
      });
    }
    if (params.film)
      for_each_block_of_images_reversed(images, params.film + g * images.count * film_values, in_group,
                                        [&](int64_t offset, const Span& span, const ColumnFilm<A>& columns) {
                                          const int64_t first = at + offset;
                                          write_gradient(grad + first, x + first, dx + first, rows, span, p, &columns,
                                                         params.slope);
                                        });
    else
      for_each_block_reversed(rows, in_group, [&](const Span& span) {
        write_gradient(grad + at, x + at, dx + at, rows, span, p, nullptr, params.slope);
      });
  });
  if (add_blocks)
    for (int64_t image = 0; image < s.groups * images.count; ++image)
      for (int64_t i = 0; i < film_values; ++i) {
        double sum = 0;
        for (int64_t b = 0; b < blocks_per_image; ++b)
          sum += static_cast<double>(film_sums[(image * blocks_per_image + b) * film_values + i]);
        dfilm[image * film_values + i] = static_cast<A>(sum);
      }
}
