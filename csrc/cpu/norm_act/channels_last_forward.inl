// norm_act forward on channels_last tensors.

// The mean of every column of a span.
template <typename T, typename A>
void block_means(const T* x, const Rows<A>& rows, const Span& span, A* means) {
  const A inverse = static_cast<A>(1 / static_cast<double>(span.end - span.begin));
  for_each_strip<A>(span, [&](int64_t column, int64_t lanes, auto count) IGAN_FAST_INLINE_LAMBDA {
    Vec<A> sums[count()] = {};
    for (int64_t r = span.begin; r < span.end; ++r)
      unroll<count()>([&](int k) IGAN_FAST_INLINE_LAMBDA {
        sums[k] += load_lanes(x + r * rows.width + column + k * kLanes<A>, lanes);
      });
    unroll<count()>([&](int k)
                        IGAN_FAST_INLINE_LAMBDA { store<false>(means + column + k * kLanes<A>, sums[k] * inverse); });
  });
}

// Σd and Σd² of every column of a span, where d = x − shift.
template <typename T, typename A>
void block_powers(const T* x, const Rows<A>& rows, const Span& span, const A* shifts, A* sums, A* squares) {
  for_each_strip<A>(span, [&](int64_t column, int64_t lanes, auto count) IGAN_FAST_INLINE_LAMBDA {
    Vec<A> shift[count()], sum[count()] = {}, square[count()] = {};
    unroll<count()>([&](int k) IGAN_FAST_INLINE_LAMBDA { shift[k] = load(shifts + column + k * kLanes<A>); });
    for (int64_t r = span.begin; r < span.end; ++r)
      unroll<count()>([&](int k) IGAN_FAST_INLINE_LAMBDA {
        const Vec<A> d = load_lanes(x + r * rows.width + column + k * kLanes<A>, lanes) - shift[k];
        sum[k] += d;
        square[k] += d * d;
      });
    unroll<count()>([&](int k) IGAN_FAST_INLINE_LAMBDA {
      store<false>(sums + column + k * kLanes<A>, sum[k]);
      store<false>(squares + column + k * kLanes<A>, square[k]);
    });
  });
}

// Adds a block to a segment's moments. For each column, a is the mean and b the sum of squared deviations.
//
// The squares are taken about the mean of the segment's earlier rows, so that the block is read only once. If this mean
// differs from the block's mean by more than a standard deviation, too many digits would be lost. Then the block's mean
// is computed first, and the squares are taken about it.
template <typename T, typename A>
void block_moments(const T* x, const Rows<A>& rows, const Span& span, Segment<A>& segment) {
  A *const shift = segment.shift, *const sums = segment.sums, *const squares = segment.squares;
  const double n = static_cast<double>(span.end - span.begin), inverse_n = 1 / n;
  bool needs_own_means = segment.rows == 0;
  if (!needs_own_means) {
    for (int64_t j = 0; j < rows.padded; ++j) shift[j] = static_cast<A>(segment.a[j]);
    block_powers(x, rows, span, shift, sums, squares);
    int lossy = 0;
    for (int64_t j = 0; j < rows.padded; ++j) lossy |= 2 * sums[j] * sums[j] > static_cast<A>(n) * squares[j];
    needs_own_means = lossy;
  }
  if (needs_own_means) {
    block_means(x, rows, span, shift);
    block_powers(x, rows, span, shift, sums, squares);
  }
  const double before = static_cast<double>(segment.rows), total = before + n;
  const double new_share = n / total, between = before * n / total;
  double* __restrict__ mean = segment.a;
  double* __restrict__ m2 = segment.b;
#pragma GCC ivdep
  for (int64_t j = 0; j < rows.padded; ++j) {
    const double sum = static_cast<double>(sums[j]), first = sum * inverse_n;
    const double delta = static_cast<double>(shift[j]) + first - mean[j];
    m2[j] += static_cast<double>(squares[j]) - first * sum + delta * delta * between;
    mean[j] += delta * new_share;
  }
  segment.rows += span.end - span.begin;
}

// Writes mean and var, (channels,), of one group.
template <typename T, typename A = typename AccOf<T>::type>
void group_statistics(const T* x, const Rows<A>& rows, A* mean, A* var, ParallelFor parallel_for) {
  const Segments<A> segments(rows);
  for_each_segment(rows, segments, parallel_for,
                   [&](const Span& span, Segment<A>& segment) { block_moments(x, rows, span, segment); });
  const T* tail = x + rows.count * rows.width;
  parallel(parallel_for, rows.channels, 64, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      Moments moments;
      for (int64_t s = 0; s < rows.segments(); ++s) {
        const Segment<A>& segment = segments.list[s];
        for_each_column(rows, c, rows.width,
                        [&](int64_t j) { moments.merge(segment.rows, segment.a[j], segment.b[j]); });
      }
      for_each_column(rows, c, rows.tail,
                      [&](int64_t j) { moments.merge(1, static_cast<double>(to_float(tail[j])), 0); });
      if (!std::isfinite(
              moments.mean)) {  // merging turns infinities into NaN; compute the mean by a plain sum, as PyTorch
        moments.mean = 0;
        for_each_column(rows, c, rows.count * rows.width + rows.tail,
                        [&](int64_t at) { moments.mean += static_cast<double>(to_float(x[at])) / moments.count; });
      }
      mean[c] = static_cast<A>(moments.mean);
      var[c] = static_cast<A>(moments.m2 / moments.count);
    }
  });
}

// film is read with kFilm only.
template <bool kStream, bool kFilm, typename T, typename A>
void apply_rows(const T* x, T* y, const Rows<A>& rows, const Span& span, const ColumnParams<A>& p,
                const ColumnFilm<A>* film, A slope) {
  // Copies, because the compiler has to expect that a store of 16-bit values changes p.
  const A *const mean = p.mean, *const scale = p.scale, *const bias = p.bias;
  const A *const film_scale = kFilm ? film->scale : nullptr, *const film_shift = kFilm ? film->shift : nullptr;
  write_vectors<kStream>(y, rows, span, [&](int64_t at, int64_t column, int64_t lanes) IGAN_FAST_INLINE_LAMBDA {
    const Vec<A> z = (load_lanes(x + at, lanes) - load(mean + column)) * load(scale + column) + load(bias + column);
    Vec<A> out = activate(z, slope);
    if constexpr (kFilm) out = out * load(film_scale + column) + load(film_shift + column);
    return out;
  });
}

// Writes mean and var with batch_statistics, else reads them. Without y, computes only mean and var.
template <typename T>
void forward(const NormShape& s, const T* x, const NormParams<typename AccOf<T>::type>& params, T* y,
             typename AccOf<T>::type* mean, typename AccOf<T>::type* var, bool batch_statistics,
             ParallelFor parallel_for) {
  using A = typename AccOf<T>::type;
  const Rows<A> rows(s);
  const Images<A> images(s);
  const bool stream = streams(s, y);
  const auto apply = params.film ? (stream ? &apply_rows<true, true, T, A> : &apply_rows<false, true, T, A>)
                                 : (stream ? &apply_rows<true, false, T, A> : &apply_rows<false, false, T, A>);
  for_each_group(s, parallel_for, [&](int64_t g, ParallelFor in_group) {
    const int64_t at = g * s.values() * s.channels, statistics = g * s.channels;
    if (batch_statistics) group_statistics(x + at, rows, mean + statistics, var + statistics, in_group);
    if (!y) return;
    const ColumnParams<A> p(params.film ? images.rows : rows, params, mean + statistics, var + statistics);
    if (params.film)
      for_each_block_of_images_reversed(images, params.film + g * images.count * 2 * s.channels, in_group,
                                        [&](int64_t offset, const Span& span, const ColumnFilm<A>& film) {
                                          apply(x + at + offset, y + at + offset, images.rows, span, p, &film,
                                                params.slope);
                                        });
    else
      for_each_block_reversed(rows, in_group,
                              [&](const Span& span) { apply(x + at, y + at, rows, span, p, nullptr, params.slope); });
  });
}
