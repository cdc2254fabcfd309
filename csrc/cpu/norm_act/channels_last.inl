// Where few values of a channel stand side by side: whole vectors hold different channels, and a row has channels ·
// inner columns, each summed on its own.

namespace columns {

constexpr int64_t kWideRow = 512;  // columns; from so many on, a partial vector at a row's end costs little
constexpr int kStrip = IGAN_FAST_ISA_LEVEL == 2 ? 8 : 4;  // vectors of a row whose sums stand in registers at once
constexpr int64_t kBlockBytes = 131072;                   // half of what stays in the second cache

// Where a row does not fill whole vectors, or few of them, `merged` rows are taken as one. Rows left over at the end
// are taken value by value.
template <typename A>
struct Rows {
  int64_t channels, inner, merged, width, padded, count, left_over, per_block;

  explicit Rows(const NormShape& s) : channels(s.channels), inner(s.inner) {
    constexpr int64_t L = kLanes<A>;
    const int64_t columns = channels * inner, rows = s.rows;
    merged = columns % L == 0 || columns >= kWideRow ? 1 : L / std::gcd(columns, L);
    while (merged * columns < kStrip * L && 8 * merged <= rows) merged *= 2;
    width = columns * merged;
    padded = (width + L - 1) / L * L;
    count = rows / merged;
    left_over = rows % merged;
    per_block = std::max<int64_t>(kBlockBytes / (padded * static_cast<int64_t>(sizeof(A))), 16);
  }
  int64_t channel_of(int64_t column) const { return column / inner % channels; }
  int64_t left_over_values() const { return left_over * channels * inner; }
  int64_t blocks() const { return (count + per_block - 1) / per_block; }
  int64_t segments() const {
    const int64_t wanted = count * width / kSegmentValues;
    return std::min(std::max<int64_t>(wanted, 1), std::min(kMaxSegments, std::max<int64_t>(blocks(), 1)));
  }
  int64_t first_block(int64_t segment) const { return blocks() * segment / segments(); }
};

// Runs function(offset, column, lanes) for every vector of the merged rows [begin, end).
template <typename A, typename Function>
IGAN_FAST_INLINE void for_each_vector(const Rows<A>& rows, int64_t begin, int64_t end, const Function& function) {
  constexpr int64_t L = kLanes<A>;
  for (int64_t r = begin; r < end; ++r) {
    int64_t column = 0;
    for (; column + L <= rows.width; column += L) function(r * rows.width + column, column, L);
    if (column < rows.width) function(r * rows.width + column, column, rows.width - column);
  }
}

template <typename T>
IGAN_FAST_INLINE auto load_lanes(const T* from, int64_t lanes) {
  return lanes == kLanes<typename AccOf<T>::type> ? load(from) : load_partial(from, lanes);
}

// What one segment has summed up: two doubles per column, and three columns of scratch for the block at hand.
template <typename A>
struct Segment {
  double *a, *b;
  A *first, *second, *third;
  int64_t count;
};

template <typename A>
struct Segments {
  std::unique_ptr<double[]> doubles;
  std::unique_ptr<A[]> scratch;
  std::unique_ptr<Segment<A>[]> list;

  explicit Segments(const Rows<A>& rows)
      : doubles(new double[static_cast<size_t>(2 * rows.padded * rows.segments())]()),
        scratch(new A[static_cast<size_t>(3 * rows.padded * rows.segments())]()),
        list(new Segment<A>[static_cast<size_t>(rows.segments())]) {
    for (int64_t s = 0; s < rows.segments(); ++s) {
      double* sums = doubles.get() + 2 * s * rows.padded;
      A* block = scratch.get() + 3 * s * rows.padded;
      list[s] = {sums, sums + rows.padded, block, block + rows.padded, block + 2 * rows.padded, 0};
    }
  }
};

// Calls strip(column, lanes, count) for strips of kStrip whole vectors of a row, then for single ones, the last of
// which may have fewer lanes; `count` is the number of vectors, as a type.
template <typename A, typename Function>
IGAN_FAST_INLINE void for_each_strip(const Rows<A>& rows, const Function& strip) {
  constexpr int64_t L = kLanes<A>;
  int64_t column = 0;
  for (; column + kStrip * L <= rows.width; column += kStrip * L)
    strip(column, L, std::integral_constant<int, kStrip>{});
  for (; column + L <= rows.width; column += L) strip(column, L, std::integral_constant<int, 1>{});
  if (column < rows.width) strip(column, rows.width - column, std::integral_constant<int, 1>{});
}

// The means of the rows [begin, end).
template <typename T, typename A>
void block_means(const T* x, const Rows<A>& rows, int64_t begin, int64_t end, A* means) {
  const A inverse = static_cast<A>(1 / static_cast<double>(end - begin));
  for_each_strip(rows, [&](int64_t column, int64_t lanes, auto count) IGAN_FAST_INLINE_LAMBDA {
    Vec<A> sums[count()] = {};
    for (int64_t r = begin; r < end; ++r)
      unroll<count()>([&](int k) IGAN_FAST_INLINE_LAMBDA {
        sums[k] += load_lanes(x + r * rows.width + column + k * kLanes<A>, lanes);
      });
    unroll<count()>([&](int k)
                        IGAN_FAST_INLINE_LAMBDA { store<false>(means + column + k * kLanes<A>, sums[k] * inverse); });
  });
}

// Σd and Σd² with d = x − shift over the rows [begin, end).
template <typename T, typename A>
void block_powers(const T* x, const Rows<A>& rows, int64_t begin, int64_t end, const A* shifts, A* sums, A* squares) {
  for_each_strip(rows, [&](int64_t column, int64_t lanes, auto count) IGAN_FAST_INLINE_LAMBDA {
    Vec<A> shift[count()], sum[count()] = {}, square[count()] = {};
    unroll<count()>([&](int k) IGAN_FAST_INLINE_LAMBDA { shift[k] = load(shifts + column + k * kLanes<A>); });
    for (int64_t r = begin; r < end; ++r)
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

// The squares are taken about the mean of the rows before, which spares reading the block twice. Where that lies
// further from the block's own mean than a standard deviation, too many digits are lost, and the block is taken about
// its own.
template <typename T, typename A>
void block_moments(const T* x, const Rows<A>& rows, int64_t begin, int64_t end, Segment<A>& segment) {
  A *const shift = segment.first, *const sums = segment.second, *const squares = segment.third;
  const double n = static_cast<double>(end - begin), inverse_n = 1 / n;
  bool own_means = segment.count == 0;
  if (!own_means) {
    for (int64_t j = 0; j < rows.padded; ++j) shift[j] = static_cast<A>(segment.a[j]);
    block_powers(x, rows, begin, end, shift, sums, squares);
    int lossy = 0;
    for (int64_t j = 0; j < rows.padded; ++j) lossy |= 2 * sums[j] * sums[j] > static_cast<A>(n) * squares[j];
    own_means = lossy;
  }
  if (own_means) {
    block_means(x, rows, begin, end, shift);
    block_powers(x, rows, begin, end, shift, sums, squares);
  }
  const double before = static_cast<double>(segment.count), total = before + n;
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
  segment.count += end - begin;
}

// Runs function(column) for the columns of a channel.
template <typename A, typename Function>
IGAN_FAST_INLINE void for_each_column(const Rows<A>& rows, int64_t channel, const Function& function) {
  for (int64_t first = channel * rows.inner; first < rows.width; first += rows.channels * rows.inner)
    for (int64_t j = first; j < first + rows.inner; ++j) function(j);
}

// Runs function(begin, end) for the rows of each block of a segment.
template <typename A, typename Function>
void for_each_block_of(const Rows<A>& rows, int64_t segment, const Function& function) {
  for (int64_t b = rows.first_block(segment); b < rows.first_block(segment + 1); ++b)
    function(b * rows.per_block, std::min((b + 1) * rows.per_block, rows.count));
}

// The parameters of a group's columns, each an array of rows.padded.
template <typename A>
struct ColumnParams {
  std::unique_ptr<A[]> memory;
  A *mean, *scale, *bias, *offset, *tilt;

  ColumnParams(const Rows<A>& rows, const NormParams<A>& params, const A* means, const A* vars)
      : memory(new A[static_cast<size_t>(5 * rows.padded)]()) {
    mean = memory.get();
    scale = mean + rows.padded;
    bias = scale + rows.padded;
    offset = bias + rows.padded;
    tilt = offset + rows.padded;
    for (int64_t j = 0; j < rows.width; ++j) {
      const int64_t c = rows.channel_of(j);
      mean[j] = means[c];
      scale[j] = params.weight[c] * inverse_std(vars[c], params.eps);
      bias[j] = params.bias[c];
    }
  }
};

template <bool kStream, typename T, typename A>
void apply_rows(const T* x, T* y, const Rows<A>& rows, int64_t begin, int64_t end, const ColumnParams<A>& p, A slope) {
  for_each_vector(rows, begin, end, [&](int64_t at, int64_t column, int64_t lanes) IGAN_FAST_INLINE_LAMBDA {
    const Vec<A> z =
        (load_lanes(x + at, lanes) - load(p.mean + column)) * load(p.scale + column) + load(p.bias + column);
    lanes == kLanes<A> ? store<kStream>(y + at, activate(z, slope)) : store_partial(y + at, activate(z, slope), lanes);
  });
}

template <bool kStream, bool kBatchStatistics, typename T, typename A>
void gradient_rows(const T* grad, const T* x, T* dx, const Rows<A>& rows, int64_t begin, int64_t end,
                   const ColumnParams<A>& p, A slope) {
  for_each_vector(rows, begin, end, [&](int64_t at, int64_t column, int64_t lanes) IGAN_FAST_INLINE_LAMBDA {
    const Vec<A> scale = load(p.scale + column), centred = load_lanes(x + at, lanes) - load(p.mean + column);
    const Vec<A> passed =
        activate_backward(centred * scale + load(p.bias + column), load_lanes(grad + at, lanes), slope);
    Vec<A> d = passed * scale;
    if constexpr (kBatchStatistics) d = d - load(p.offset + column) - centred * load(p.tilt + column);
    lanes == kLanes<A> ? store<kStream>(dx + at, d) : store_partial(dx + at, d, lanes);
  });
}

template <typename T, typename A>
void block_sums(const T* grad, const T* x, const Rows<A>& rows, int64_t begin, int64_t end, const ColumnParams<A>& p,
                A slope, Segment<A>& segment) {
  constexpr int L = kLanes<A>;
  for_each_strip(rows, [&](int64_t column, int64_t lanes, auto count) IGAN_FAST_INLINE_LAMBDA {
    Vec<A> grads[count()] = {}, products[count()] = {};
    for (int64_t r = begin; r < end; ++r)
      unroll<count()>([&](int k) IGAN_FAST_INLINE_LAMBDA {
        const int64_t j = column + k * L, at = r * rows.width + j;
        const Vec<A> centred = load_lanes(x + at, lanes) - load(p.mean + j);
        const Vec<A> passed =
            activate_backward(centred * load(p.scale + j) + load(p.bias + j), load_lanes(grad + at, lanes), slope);
        grads[k] += passed;
        products[k] += passed * centred;
      });
    unroll<count()>([&](int k) IGAN_FAST_INLINE_LAMBDA {
      for (int l = 0; l < L; ++l) {
        segment.a[column + k * L + l] += static_cast<double>(grads[k][l]);
        segment.b[column + k * L + l] += static_cast<double>(products[k][l]);
      }
    });
  });
}

// Runs function(begin, end) for the rows of every block, in parallel, each thread from its last block to its first: it
// begins with what the sums have read last.
template <typename A, typename Function>
void for_each_block_back(const Rows<A>& rows, ParallelFor run, const Function& function) {
  parallel(run, rows.blocks(), 1 + kSegmentValues / (rows.per_block * rows.width + 1), [&](int64_t begin, int64_t end) {
    for (int64_t b = end - 1; b >= begin; --b)
      function(b * rows.per_block, std::min((b + 1) * rows.per_block, rows.count));
    end_streams();
  });
}

template <typename T>
bool streams(const NormShape& s, const T* out) {
  const int64_t row = s.channels * s.inner * static_cast<int64_t>(sizeof(T));
  return row % 64 == 0 && past_the_caches(s.groups * s.rows * row, out);
}

template <typename T, typename A = typename AccOf<T>::type>
void group_statistics(const T* x, const Rows<A>& rows, A* mean, A* var, ParallelFor run) {
  const Segments<A> segments(rows);
  parallel(run, rows.segments(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s)
      for_each_block_of(rows, s,
                        [&](int64_t first, int64_t last) { block_moments(x, rows, first, last, segments.list[s]); });
  });
  const T* left_over = x + rows.count * rows.width;
  const int64_t stride = rows.channels * rows.inner;
  parallel(run, rows.channels, 64, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      Moments moments;
      for (int64_t s = 0; s < rows.segments(); ++s) {
        const Segment<A>& segment = segments.list[s];
        for_each_column(rows, c, [&](int64_t j) { moments.merge(segment.count, segment.a[j], segment.b[j]); });
      }
      for (int64_t r = 0; r < rows.left_over; ++r)
        for (int64_t i = 0; i < rows.inner; ++i)
          moments.merge(1, static_cast<double>(to_float(left_over[r * stride + c * rows.inner + i])), 0);
      if (!std::isfinite(moments.mean)) {  // what merging makes of infinities is not their mean
        moments.mean = 0;
        for (const T* row = x + c * rows.inner; row < left_over + rows.left_over_values(); row += stride)
          for (int64_t i = 0; i < rows.inner; ++i)
            moments.mean += static_cast<double>(to_float(row[i])) / moments.count;
      }
      mean[c] = static_cast<A>(moments.mean);
      var[c] = static_cast<A>(moments.m2 / moments.count);
    }
  });
}

inline void serially(int64_t begin, int64_t end, int64_t, Body body, void* context) {
  if (begin < end) body(begin, end, context);
}

// Each group in turn on all threads; where there are many groups, many at a time on a thread each.
template <typename Function>
void for_each_group(const NormShape& s, ParallelFor run, const Function& function) {
  if (s.groups < kOwnTasks) {
    for (int64_t g = 0; g < s.groups; ++g) function(g, run);
  } else {
    parallel(run, s.groups, 1 + kSegmentValues / (s.values() * s.channels + 1), [&](int64_t begin, int64_t end) {
      for (int64_t g = begin; g < end; ++g) function(g, &serially);
    });
  }
}

template <typename T>
void forward(const NormShape& s, const T* x, const NormParams<typename AccOf<T>::type>& params, T* y,
             typename AccOf<T>::type* mean, typename AccOf<T>::type* var, bool batch_statistics, ParallelFor run) {
  using A = typename AccOf<T>::type;
  const Rows<A> rows(s);
  const bool stream = streams(s, y);
  for_each_group(s, run, [&](int64_t g, ParallelFor inner) {
    const int64_t at = g * s.values() * s.channels, statistics = batch_statistics ? g * s.channels : 0;
    if (batch_statistics) group_statistics(x + at, rows, mean + statistics, var + statistics, inner);
    const ColumnParams<A> p(rows, params, mean + statistics, var + statistics);
    for_each_block_back(rows, inner, [&](int64_t begin, int64_t end) {
      stream ? apply_rows<true>(x + at, y + at, rows, begin, end, p, params.slope)
             : apply_rows<false>(x + at, y + at, rows, begin, end, p, params.slope);
    });
    const int64_t done = rows.count * rows.width;
    for (int64_t i = 0; i < rows.left_over_values(); ++i) {
      const A z = (to_float(x[at + done + i]) - p.mean[i]) * p.scale[i] + p.bias[i];
      y[at + done + i] = from_acc<T>(activate(z, params.slope));
    }
  });
}

template <typename T>
void backward(const NormShape& s, const T* grad, const T* x, const NormParams<typename AccOf<T>::type>& params,
              const typename AccOf<T>::type* mean, const typename AccOf<T>::type* var, bool batch_statistics, T* dx,
              typename AccOf<T>::type* dweight, typename AccOf<T>::type* dbias, ParallelFor run) {
  using A = typename AccOf<T>::type;
  const Rows<A> rows(s);
  const bool stream = streams(s, dx);
  const auto run_rows = batch_statistics
                            ? (stream ? &gradient_rows<true, true, T, A> : &gradient_rows<false, true, T, A>)
                            : (stream ? &gradient_rows<true, false, T, A> : &gradient_rows<false, false, T, A>);
  const std::unique_ptr<double[]> totals(
      new double[static_cast<size_t>(2 * s.groups * s.channels)]);  // Σ g′ and Σ g′·x̂ per group
  for_each_group(s, run, [&](int64_t g, ParallelFor inner) {
    const int64_t at = g * s.values() * s.channels, statistics = batch_statistics ? g * s.channels : 0;
    ColumnParams<A> p(rows, params, mean + statistics, var + statistics);
    const Segments<A> segments(rows);
    parallel(inner, rows.segments(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        for_each_block_of(rows, i, [&](int64_t first, int64_t last) {
          block_sums(grad + at, x + at, rows, first, last, p, params.slope, segments.list[i]);
        });
    });
    const int64_t done = rows.count * rows.width;
    for (int64_t i = 0; i < rows.left_over_values(); ++i) {
      const A centred = to_float(x[at + done + i]) - p.mean[i];
      const A passed =
          activate_backward<A>(centred * p.scale[i] + p.bias[i], to_float(grad[at + done + i]), params.slope);
      segments.list[0].a[i] += static_cast<double>(passed);
      segments.list[0].b[i] += static_cast<double>(passed * centred);
    }
    for (int64_t c = 0; c < s.channels; ++c) {
      double sum_grad = 0, sum_grad_x = 0;
      for (int64_t i = 0; i < rows.segments(); ++i)
        for_each_column(rows, c, [&](int64_t j) {
          sum_grad += segments.list[i].a[j];
          sum_grad_x += segments.list[i].b[j];
        });
      const A invstd = inverse_std(var[statistics + c], params.eps);
      const Gradient<A> gradient =
          gradient_of(p.scale[c * rows.inner], invstd, sum_grad, sum_grad_x, s.values(), batch_statistics);
      for_each_column(rows, c, [&](int64_t j) {
        p.offset[j] = gradient.offset;
        p.tilt[j] = gradient.tilt;
      });
      totals[2 * (g * s.channels + c)] = sum_grad;
      totals[2 * (g * s.channels + c) + 1] = sum_grad_x * static_cast<double>(invstd);
    }
    for_each_block_back(rows, inner, [&](int64_t begin, int64_t end) {
      run_rows(grad + at, x + at, dx + at, rows, begin, end, p, params.slope);
    });
    for (int64_t i = 0; i < rows.left_over_values(); ++i) {
      const A centred = to_float(x[at + done + i]) - p.mean[i];
      const A passed =
          activate_backward<A>(centred * p.scale[i] + p.bias[i], to_float(grad[at + done + i]), params.slope);
      const A own = passed * p.scale[i];
      dx[at + done + i] = from_acc<T>(batch_statistics ? own - p.offset[i] - centred * p.tilt[i] : own);
    }
  });
  for (int64_t c = 0; c < s.channels; ++c) {
    double weight = 0, bias = 0;
    for (int64_t g = 0; g < s.groups; ++g) {
      bias += totals[2 * (g * s.channels + c)];
      weight += totals[2 * (g * s.channels + c) + 1];
    }
    dweight[c] = static_cast<A>(weight);
    dbias[c] = static_cast<A>(bias);
  }
}

}  // namespace columns
