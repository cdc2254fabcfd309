// Where many values of a channel stand side by side: one run of `inner` values per row.

namespace runs {

// A block is either a whole number of rows' runs or, where those are long, a part of one run.
struct Blocks {
  int64_t rows, pieces, all_rows, inner;  // rows per block; blocks per row
  int64_t count() const { return pieces > 1 ? all_rows * pieces : (all_rows + rows - 1) / rows; }
};

inline Blocks blocks_of(const NormShape& s) {
  const int64_t rows = s.inner >= kBlockValues ? 1 : kBlockValues / s.inner;
  const int64_t pieces = s.inner > kBlockValues ? (s.inner + kBlockValues - 1) / kBlockValues : 1;
  return {rows, pieces, s.rows, s.inner};
}

// function(offset, length) for each run of a block, as offsets from the channel's first value.
template <typename Function>
IGAN_FAST_INLINE void for_each_run(const Blocks& blocks, int64_t block, int64_t row_stride, const Function& function) {
  if (blocks.pieces > 1) {
    const int64_t row = block / blocks.pieces, first = block % blocks.pieces * kBlockValues;
    const int64_t left = blocks.inner - first;
    function(row * row_stride + first, left < kBlockValues ? left : kBlockValues);
  } else {
    const int64_t first = block * blocks.rows;
    const int64_t end = first + blocks.rows < blocks.all_rows ? first + blocks.rows : blocks.all_rows;
    for (int64_t row = first; row < end; ++row) function(row * row_stride, blocks.inner);
  }
}

template <typename T>
void block_moments(const T* x, const Blocks& blocks, int64_t block, int64_t row_stride, Moments& moments) {
  using A = typename AccOf<T>::type;
  constexpr int L = kLanes<A>;
  int64_t count = 0;
  Vec<A> sums[4] = {};
  for_each_run(blocks, block, row_stride, [&](int64_t offset, int64_t length) IGAN_FAST_INLINE_LAMBDA {
    const T* run = x + offset;
    int64_t i = 0;
    for (; i + 4 * L <= length; i += 4 * L)
      unroll<4>([&](int k) IGAN_FAST_INLINE_LAMBDA { sums[k] += load(run + i + k * L); });
    for (; i + L <= length; i += L) sums[0] += load(run + i);
    if (i < length) sums[1] += load_partial(run + i, length - i);
    count += length;
  });
  const double n = static_cast<double>(count);
  const A shift = static_cast<A>(
      (sum_lanes<A>(sums[0]) + sum_lanes<A>(sums[1]) + sum_lanes<A>(sums[2]) + sum_lanes<A>(sums[3])) / n);
  Vec<A> firsts[2] = {}, squares[2] = {};
  for_each_run(blocks, block, row_stride, [&](int64_t offset, int64_t length) IGAN_FAST_INLINE_LAMBDA {
    const T* run = x + offset;
    int64_t i = 0;
    for (; i + 2 * L <= length; i += 2 * L)
      unroll<2>([&](int k) IGAN_FAST_INLINE_LAMBDA {
        const Vec<A> d = load(run + i + k * L) - shift;
        firsts[k] += d;
        squares[k] += d * d;
      });
    for (; i < length; i += L) {
      const int64_t lanes = length - i < L ? length - i : L;
      const Vec<A> d = lanes == L ? load(run + i) - shift : keep_lanes<A>(load_partial(run + i, lanes) - shift, lanes);
      firsts[0] += d;
      squares[0] += d * d;
    }
  });
  const double first = sum_lanes<A>(firsts[0]) + sum_lanes<A>(firsts[1]);
  const double square = sum_lanes<A>(squares[0]) + sum_lanes<A>(squares[1]);
  moments.merge(n, static_cast<double>(shift) + first / n, square - first * first / n);
}

template <bool kStream, typename T, typename A>
void apply_block(const T* x, T* y, const Affine<A>& f, const Blocks& blocks, int64_t block, int64_t row_stride) {
  constexpr int L = kLanes<A>;
  for_each_run(blocks, block, row_stride, [&](int64_t offset, int64_t length) IGAN_FAST_INLINE_LAMBDA {
    int64_t i = offset;
    const int64_t end = offset + length;
    for (; i + L <= end; i += L) store<kStream>(y + i, activate((load(x + i) - f.mean) * f.scale + f.bias, f.slope));
    if (i < end)
      store_partial(y + i, activate((load_partial(x + i, end - i) - f.mean) * f.scale + f.bias, f.slope), end - i);
  });
}

template <typename T, typename A>
void block_sums(const T* grad, const T* x, const Affine<A>& f, const Blocks& blocks, int64_t block, int64_t row_stride,
                double& sum_grad, double& sum_grad_x) {
  constexpr int L = kLanes<A>;
  Vec<A> grads[2] = {}, products[2] = {};
  const auto add = [&](Vec<A> value, Vec<A> g, int k) IGAN_FAST_INLINE_LAMBDA {
    const Vec<A> centred = value - f.mean;
    const Vec<A> passed = activate_backward(centred * f.scale + f.bias, g, f.slope);
    grads[k] += passed;
    products[k] += passed * centred;
  };
  for_each_run(blocks, block, row_stride, [&](int64_t offset, int64_t length) IGAN_FAST_INLINE_LAMBDA {
    int64_t i = offset;
    const int64_t end = offset + length;
    for (; i + 2 * L <= end; i += 2 * L) {
      add(load(x + i), load(grad + i), 0);
      add(load(x + i + L), load(grad + i + L), 1);
    }
    for (; i + L <= end; i += L) add(load(x + i), load(grad + i), 0);
    if (i < end)
      add(load_partial(x + i, end - i), load_partial(grad + i, end - i), 1);  // a lane past the end has gradient 0
  });
  sum_grad += sum_lanes<A>(grads[0]) + sum_lanes<A>(grads[1]);
  sum_grad_x += sum_lanes<A>(products[0]) + sum_lanes<A>(products[1]);
}

template <bool kStream, bool kBatchStatistics, typename T, typename A>
void gradient_block(const T* grad, const T* x, T* dx, const Affine<A>& f, const Gradient<A>& gradient,
                    const Blocks& blocks, int64_t block, int64_t row_stride) {
  constexpr int L = kLanes<A>;
  const auto one = [&](Vec<A> value, Vec<A> g) IGAN_FAST_INLINE_LAMBDA {
    const Vec<A> centred = value - f.mean;
    const Vec<A> passed = activate_backward(centred * f.scale + f.bias, g, f.slope);
    if constexpr (!kBatchStatistics) return passed * f.scale;
    return passed * f.scale - gradient.offset - centred * gradient.tilt;
  };
  for_each_run(blocks, block, row_stride, [&](int64_t offset, int64_t length) IGAN_FAST_INLINE_LAMBDA {
    int64_t i = offset;
    const int64_t end = offset + length;
    for (; i + L <= end; i += L) store<kStream>(dx + i, one(load(x + i), load(grad + i)));
    if (i < end) store_partial(dx + i, one(load_partial(x + i, end - i), load_partial(grad + i, end - i)), end - i);
  });
}

// Streams only where every run begins on a whole vector.
template <typename T>
bool streams(const NormShape& s, const T* out) {
  const int64_t bytes = s.groups * s.values() * s.channels * static_cast<int64_t>(sizeof(T));
  return s.inner * static_cast<int64_t>(sizeof(T)) % 64 == 0 && past_the_caches(bytes, out);
}

// The tasks of one call: each (group, channel), whole where there are many of them (what a channel's statistics have
// read is then still in the cache when it is normalised), else in segments of blocks.
struct Tasks {
  int64_t channels, segments, blocks;
  int64_t first(int64_t segment) const { return blocks * segment / segments; }
};

inline Tasks tasks_of(const NormShape& s, const Blocks& blocks) {
  const int64_t channels = s.groups * s.channels;
  int64_t segments = 1;
  if (channels < kOwnTasks) {
    segments = s.values() / kSegmentValues;
    segments = segments < 1 ? 1 : segments > kMaxSegments ? kMaxSegments : segments;
    segments = segments > blocks.count() ? blocks.count() : segments;
  }
  return {channels, segments, blocks.count()};
}

template <typename T>
void forward(const NormShape& s, const T* x, const NormParams<typename AccOf<T>::type>& params, T* y,
             typename AccOf<T>::type* mean, typename AccOf<T>::type* var, bool batch_statistics, ParallelFor run) {
  using A = typename AccOf<T>::type;
  const Blocks blocks = blocks_of(s);
  const Tasks tasks = tasks_of(s, blocks);
  const int64_t row_stride = s.channels * s.inner;
  const bool stream = streams(s, y);
  const auto start = [&](int64_t channel) {
    return channel / s.channels * s.rows * row_stride + channel % s.channels * s.inner;
  };
  const auto moments_of = [&](int64_t channel, int64_t segment) {
    Moments moments;
    for (int64_t b = tasks.first(segment); b < tasks.first(segment + 1); ++b)
      block_moments(x + start(channel), blocks, b, row_stride, moments);
    return moments;
  };
  const auto keep = [&](int64_t channel, const Moments& moments) {
    mean[channel] = static_cast<A>(moments.mean);
    var[channel] = static_cast<A>(moments.m2 / moments.count);
    if (std::isfinite(moments.mean)) return;
    double sum = 0;  // what merging makes of infinities is not their mean
    for (int64_t row = 0; row < s.rows; ++row)
      for (int64_t i = 0; i < s.inner; ++i)
        sum += static_cast<double>(to_float(x[start(channel) + row * row_stride + i]));
    mean[channel] = static_cast<A>(sum / moments.count);
  };
  // Backwards, so that it begins with what the statistics have read last.
  const auto apply = [&](int64_t channel, int64_t segment) {
    const int64_t c = channel % s.channels, from = batch_statistics ? channel : c;
    const Affine<A> f = {mean[from], params.weight[c] * inverse_std(var[from], params.eps), params.bias[c],
                         params.slope};
    const T* in = x + start(channel);
    T* out = y + start(channel);
    for (int64_t b = tasks.first(segment + 1) - 1; b >= tasks.first(segment); --b)
      stream ? apply_block<true>(in, out, f, blocks, b, row_stride)
             : apply_block<false>(in, out, f, blocks, b, row_stride);
  };
  const int64_t grain = 1 + kSegmentValues / (s.values() / tasks.segments + 1);

  if (tasks.segments == 1) {
    parallel(run, tasks.channels, grain, [&](int64_t begin, int64_t end) {
      for (int64_t channel = begin; channel < end; ++channel) {
        if (batch_statistics) keep(channel, moments_of(channel, 0));
        apply(channel, 0);
      }
      if (stream) end_streams();
    });
    return;
  }
  if (batch_statistics) {
    const std::unique_ptr<Moments[]> partial(new Moments[static_cast<size_t>(tasks.channels * tasks.segments)]);
    parallel(run, tasks.channels * tasks.segments, grain, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) partial[t] = moments_of(t / tasks.segments, t % tasks.segments);
    });
    for (int64_t channel = 0; channel < tasks.channels; ++channel) {
      Moments moments;
      for (int64_t t = channel * tasks.segments; t < (channel + 1) * tasks.segments; ++t)
        moments.merge(partial[t].count, partial[t].mean, partial[t].m2);
      keep(channel, moments);
    }
  }
  parallel(run, tasks.channels * tasks.segments, grain, [&](int64_t begin, int64_t end) {
    for (int64_t t = end - 1; t >= begin; --t) apply(t / tasks.segments, t % tasks.segments);
    if (stream) end_streams();
  });
}

template <typename T>
void backward(const NormShape& s, const T* grad, const T* x, const NormParams<typename AccOf<T>::type>& params,
              const typename AccOf<T>::type* mean, const typename AccOf<T>::type* var, bool batch_statistics, T* dx,
              typename AccOf<T>::type* dweight, typename AccOf<T>::type* dbias, ParallelFor run) {
  using A = typename AccOf<T>::type;
  const Blocks blocks = blocks_of(s);
  const Tasks tasks = tasks_of(s, blocks);
  const int64_t row_stride = s.channels * s.inner;
  const bool stream = streams(s, dx);
  struct Sums {
    double grad = 0, grad_x = 0;  // Σ g′ and Σ g′·(x − mean)
  };
  const std::unique_ptr<Sums[]> partial(new Sums[static_cast<size_t>(tasks.channels * tasks.segments)]);
  const std::unique_ptr<Sums[]> total(new Sums[static_cast<size_t>(tasks.channels)]);
  const auto start = [&](int64_t channel) {
    return channel / s.channels * s.rows * row_stride + channel % s.channels * s.inner;
  };
  const auto statistics_of = [&](int64_t channel) { return batch_statistics ? channel : channel % s.channels; };
  const auto affine_of = [&](int64_t channel) {
    const int64_t c = channel % s.channels, from = statistics_of(channel);
    return Affine<A>{mean[from], params.weight[c] * inverse_std(var[from], params.eps), params.bias[c], params.slope};
  };
  const auto sums_of = [&](int64_t channel, int64_t segment) {
    Sums sums;
    const Affine<A> f = affine_of(channel);
    for (int64_t b = tasks.first(segment); b < tasks.first(segment + 1); ++b)
      block_sums(grad + start(channel), x + start(channel), f, blocks, b, row_stride, sums.grad, sums.grad_x);
    return sums;
  };
  const auto run_block = batch_statistics
                             ? (stream ? &gradient_block<true, true, T, A> : &gradient_block<false, true, T, A>)
                             : (stream ? &gradient_block<true, false, T, A> : &gradient_block<false, false, T, A>);
  const auto apply = [&](int64_t channel, int64_t segment) {
    const Affine<A> f = affine_of(channel);
    const A invstd = inverse_std(var[statistics_of(channel)], params.eps);
    const Gradient<A> gradient =
        gradient_of(f.scale, invstd, total[channel].grad, total[channel].grad_x, s.values(), batch_statistics);
    const int64_t at = start(channel);
    for (int64_t b = tasks.first(segment + 1) - 1; b >= tasks.first(segment); --b)
      run_block(grad + at, x + at, dx + at, f, gradient, blocks, b, row_stride);
  };
  const int64_t grain = 1 + kSegmentValues / (s.values() / tasks.segments + 1);

  if (tasks.segments == 1) {
    parallel(run, tasks.channels, grain, [&](int64_t begin, int64_t end) {
      for (int64_t channel = begin; channel < end; ++channel) {
        total[channel] = sums_of(channel, 0);
        apply(channel, 0);
      }
      if (stream) end_streams();
    });
  } else {
    parallel(run, tasks.channels * tasks.segments, grain, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) partial[t] = sums_of(t / tasks.segments, t % tasks.segments);
    });
    for (int64_t t = 0; t < tasks.channels * tasks.segments; ++t) {
      total[t / tasks.segments].grad += partial[t].grad;
      total[t / tasks.segments].grad_x += partial[t].grad_x;
    }
    parallel(run, tasks.channels * tasks.segments, grain, [&](int64_t begin, int64_t end) {
      for (int64_t t = end - 1; t >= begin; --t) apply(t / tasks.segments, t % tasks.segments);
      if (stream) end_streams();
    });
  }
  for (int64_t c = 0; c < s.channels; ++c) {
    double weight = 0, bias = 0;
    for (int64_t channel = c; channel < tasks.channels; channel += s.channels) {
      weight += total[channel].grad_x * static_cast<double>(inverse_std(var[statistics_of(channel)], params.eps));
      bias += total[channel].grad;
    }
    dweight[c] = static_cast<A>(weight);
    dbias[c] = static_cast<A>(bias);
  }
}

}  // namespace runs
