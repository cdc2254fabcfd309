// norm_act backward on channels_last tensors.

// Adds a span to a segment's sums. For each column, a is Σ dz and b is Σ dz·(x − mean), where dz is the gradient of z,
// the LeakyReLU's input.
template <typename T, typename A>
void block_sums(const T* grad, const T* x, const Rows<A>& rows, const Span& span, const ColumnParams<A>& p, A slope,
                Segment<A>& segment) {
  constexpr int L = kLanes<A>;
  for_each_strip<A>(span, [&](int64_t column, int64_t lanes, auto count) IGAN_FAST_INLINE_LAMBDA {
    Vec<A> sums[count()] = {}, products[count()] = {};
    for (int64_t r = span.begin; r < span.end; ++r)
      unroll<count()>([&](int k) IGAN_FAST_INLINE_LAMBDA {
        const int64_t j = column + k * L, at = r * rows.width + j;
        const Vec<A> centred = load_lanes(x + at, lanes) - load(p.mean + j);
        const Vec<A> dz =
            activate_backward(centred * load(p.scale + j) + load(p.bias + j), load_lanes(grad + at, lanes), slope);
        sums[k] += dz;
        products[k] += dz * centred;
      });
    unroll<count()>([&](int k) IGAN_FAST_INLINE_LAMBDA {
      for (int l = 0; l < lanes; ++l) {
        segment.a[column + k * L + l] += static_cast<double>(sums[k][l]);
        segment.b[column + k * L + l] += static_cast<double>(products[k][l]);
      }
    });
  });
}

template <bool kStream, bool kBatchStatistics, typename T, typename A>
void gradient_rows(const T* grad, const T* x, T* dx, const Rows<A>& rows, const Span& span, const ColumnParams<A>& p,
                   A slope) {
  for_each_vector(rows, span, [&](int64_t at, int64_t column, int64_t lanes) IGAN_FAST_INLINE_LAMBDA {
    const Vec<A> scale = load(p.scale + column), centred = load_lanes(x + at, lanes) - load(p.mean + column);
    const Vec<A> dz = activate_backward(centred * scale + load(p.bias + column), load_lanes(grad + at, lanes), slope);
    Vec<A> d = dz * scale;
    if constexpr (kBatchStatistics) d = d - load(p.mean_term + column) - centred * load(p.var_term + column);
    store_lanes<kStream>(dx + at, d, lanes);
  });
}

template <typename T>
void backward(const NormShape& s, const T* grad, const T* x, const NormParams<typename AccOf<T>::type>& params,
              const typename AccOf<T>::type* mean, const typename AccOf<T>::type* var, bool batch_statistics, T* dx,
              typename AccOf<T>::type* dweight, typename AccOf<T>::type* dbias, ParallelFor parallel_for) {
  using A = typename AccOf<T>::type;
  const Rows<A> rows(s);
  const bool stream = streams(s, dx);
  const auto write_gradient = batch_statistics
                                  ? (stream ? &gradient_rows<true, true, T, A> : &gradient_rows<false, true, T, A>)
                                  : (stream ? &gradient_rows<true, false, T, A> : &gradient_rows<false, false, T, A>);
  struct Sums {
    double dz, dz_x;  // Σ dz and Σ dz·x̂
  };
  const std::unique_ptr<Sums[]> totals(new Sums[static_cast<size_t>(s.groups * s.channels)]);
  for_each_group(s, parallel_for, [&](int64_t g, ParallelFor in_group) {
    const int64_t at = g * s.values() * s.channels, statistics = batch_statistics ? g * s.channels : 0;
    ColumnParams<A> p(rows, params, mean + statistics, var + statistics);
    const Segments<A> segments(rows);
    for_each_segment(rows, segments, in_group, [&](const Span& span, Segment<A>& segment) {
      block_sums(grad + at, x + at, rows, span, p, params.slope, segment);
    });
    if (rows.tail) block_sums(grad + at, x + at, rows, rows.tail_span(), p, params.slope, segments.list[0]);
    for (int64_t c = 0; c < s.channels; ++c) {
      double sum_dz = 0, sum_dz_x = 0;
      for (int64_t i = 0; i < rows.segments(); ++i)
        for_each_column(rows, c, rows.width, [&](int64_t j) {
          sum_dz += segments.list[i].a[j];
          sum_dz_x += segments.list[i].b[j];
        });
      const A invstd = inverse_std(var[statistics + c], params.eps);
      const Gradient<A> gradient =
          gradient_of(p.scale[c * rows.inner], invstd, sum_dz, sum_dz_x, s.values(), batch_statistics);
      for_each_column(rows, c, rows.width, [&](int64_t j) {
        p.mean_term[j] = gradient.mean_term;
        p.var_term[j] = gradient.var_term;
      });
      totals[g * s.channels + c] = {sum_dz, sum_dz_x * static_cast<double>(invstd)};
    }
    for_each_block_reversed(rows, in_group, [&](const Span& span) {
      write_gradient(grad + at, x + at, dx + at, rows, span, p, params.slope);
    });
  });
  for (int64_t c = 0; c < s.channels; ++c) {
    double weight = 0, bias = 0;
    for (int64_t g = 0; g < s.groups; ++g) {
      bias += totals[g * s.channels + c].dz;
      weight += totals[g * s.channels + c].dz_x;
    }
    dweight[c] = static_cast<A>(weight);
    dbias[c] = static_cast<A>(bias);
  }
}
