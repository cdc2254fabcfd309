// The transposed convolution from the features to the image.

// The vectors whose sums are in registers at the same time, and for how many positions.
constexpr int kMaxVectors = IGAN_FAST_ISA_LEVEL == 2 ? 5 : 2;
template <int N>
constexpr int kRows = IGAN_FAST_ISA_LEVEL == 2 ? (N <= 2 ? 8 : 20 / N) : (N == 1 ? 8 : 6);
constexpr int kMostRows = 8;

// Calls function(std::integral_constant<int, N>, first) for groups of N of `count` vectors, N being at most
// kMaxVectors. The groups are as equal as possible.
template <int N = kMaxVectors, typename Function>
IGAN_FAST_INLINE void with_vectors(int64_t n, const Function& function) {
  if constexpr (N > 1)
    if (n < N) return with_vectors<N - 1>(n, function);
  function(std::integral_constant<int, N>{});
}
template <typename Function>
IGAN_FAST_INLINE void for_each_group(int64_t count, const Function& function) {
  const int64_t groups = (count + kMaxVectors - 1) / kMaxVectors;
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t first = count * g / groups;
    with_vectors(count * (g + 1) / groups - first, [&](auto n) { function(n, first); });
  }
}

// The vectors that hold the values of a window, and the segments of vectors that belong to one row of the image. Either
// each row of the window begins with a new vector, or the rows follow each other, if these are fewer vectors.
struct Window {
  struct Segment {
    int64_t row, offset;  // the segment's row of the window, and the place in that row of the vector's first lane
  };
  int64_t run, count, lanes_of_row, segments = 0;
  std::unique_ptr<int64_t[]> starts;  // vector v has the segments starts[v] to starts[v + 1] − 1
  std::unique_ptr<Segment[]> places;

  explicit Window(const DirectShape& s) : run(s.kernel_width * s.image_channels) {
    const int64_t apart = s.kernel_height * round_up(run, L), dense = round_up(s.kernel_height * run, L);
    lanes_of_row = dense < apart ? run : round_up(run, L);
    count = std::min(apart, dense) / L;
    starts.reset(new int64_t[static_cast<size_t>(count + 1)]);
    places.reset(new Segment[static_cast<size_t>(count + s.kernel_height)]);
    for (int64_t v = 0; v < count; ++v) {
      starts[v] = segments;
      const int64_t first = v * L / lanes_of_row, last = ((v + 1) * L - 1) / lanes_of_row;
      for (int64_t row = first; row <= std::min(last, s.kernel_height - 1); ++row)
        places[segments++] = {row, v * L - row * lanes_of_row};
    }
    starts[count] = segments;
  }
  int64_t column(int64_t row, int64_t value) const { return row * lanes_of_row + value; }
};

// Rows of the image that are not complete, in a ring: those that the next row of features adds to. A row begins with L
// values that are not used, because a segment's vector may begin before it, and the window of the first position.
//
// Windows of neighbouring positions overlap, and a load of values of which some were just stored has to wait until they
// have reached the cache. So each row has copies for successive positions, whose sum is the row.
struct Ring {
  static constexpr int64_t kMaxCopies = 4;
  int64_t rows, step, copies, copy_size, row_size;

  explicit Ring(const DirectShape& s) : rows(s.kernel_height), step(s.stride_width * s.image_channels) {
    const int64_t window = round_up(s.kernel_width * s.image_channels, L);
    copies = std::min((window + step - 1) / step, kMaxCopies);
    copy_size = L + std::max(round_up((s.width - 1) * step, L) + window + L,
                             s.padding_width * s.image_channels + round_up(s.image_width * s.image_channels, L));
    row_size = copies * copy_size;
  }
  int64_t size() const { return rows * row_size; }
  int64_t place(int64_t row) const { return (row % rows + rows) % rows * row_size + L; }
};

// The products of kRows<N> positions with N vectors of the windows, each added to its places in the image. in: features
// of the first position, which is position x; filter: (channels, all vectors); starts: as in Window; targets and masks:
// of each segment. Only positions from `first` on, and before `end`, are added.
template <int N>
void spread_positions(const float* in, int64_t in_step, int64_t channels, const float* filter, int64_t filter_step,
                      const int64_t* starts, float* const* targets, const float* masks, const Ring& ring, int64_t x,
                      int64_t first, int64_t end) {
  constexpr int R = kRows<N>;
  V sums[R][N] = {};
  for (int64_t f = 0; f < channels; ++f, ++in, filter += filter_step) {
    V weights[N];
    unroll<N>([&](int v) IGAN_FAST_INLINE_LAMBDA { weights[v] = load(filter + v * L); });
    unroll<R>([&](int r) IGAN_FAST_INLINE_LAMBDA {
      const V value = broadcast(in[r * in_step]);
      unroll<N>([&](int v) IGAN_FAST_INLINE_LAMBDA { sums[r][v] += value * weights[v]; });
    });
  }
  int64_t places[R];
  int64_t copy = x % ring.copies;
  unroll<R>([&](int r) IGAN_FAST_INLINE_LAMBDA {
    places[r] = copy * ring.copy_size + (x + r) * ring.step;
    copy = copy + 1 < ring.copies ? copy + 1 : 0;
  });
  using Bits = Vec<uint32_t>;
  unroll<N>([&](int v) IGAN_FAST_INLINE_LAMBDA {
    for (int64_t i = starts[v]; i < starts[v + 1]; ++i) {
      const Bits mask = load_bits<Bits>(masks + i * L);
      unroll<R>([&](int r) IGAN_FAST_INLINE_LAMBDA {
        if (r < first || r >= end) return;
        // Outside of the segment are other values, or products with zeros: NaN where the features are not finite.
        const Bits product = reinterpret_cast<Bits>(sums[r][v]) & mask;
        float* const to = targets[i] + places[r];
        store<false>(to, load(to) + reinterpret_cast<V>(product));
      });
    }
  });
}

void convolve_transposed(const DirectShape& s, const Features& features, const WeightStrides& w, const float* weight,
                         const float* bias, float slope, float* image, ParallelFor parallel_for) {
  const Window window(s);
  const Ring ring(s);
  const int64_t out_row = s.image_width * s.image_channels, edge = s.padding_width * s.image_channels;
  const int64_t columns = window.count * L, masks_size = window.segments * L;
  const Scratch packed(s.channels * columns + masks_size + round_up(out_row, L));
  float* const filter = packed.data();  // (channels, columns)
  float* const masks = filter + s.channels * columns;
  float* const biases = masks + masks_size;
  std::fill_n(filter, s.channels * columns + masks_size, 0.f);
  for (int64_t i = 0; i < s.kernel_height; ++i)
    for (int64_t j = 0; j < window.run; ++j) {
      const float* from = weight + i * w.row + j / s.image_channels * w.column + j % s.image_channels * w.image_channel;
      for (int64_t f = 0; f < s.channels; ++f) filter[f * columns + window.column(i, j)] = from[f * w.channel];
    }
  for (int64_t i = 0; i < window.segments; ++i)
    for (int64_t lane = 0; lane < L; ++lane) {
      const int64_t value = window.places[i].offset + lane;
      if (value >= 0 && value < window.run) masks[i * L + lane] = bit_cast<float>(~uint32_t{0});
    }
  for (int64_t i = 0; i < out_row; ++i) biases[i] = bias ? bias[i % s.image_channels] : 0.f;

  parallel(parallel_for, s.batch * s.image_height, 4, [&](int64_t begin, int64_t end) {
    const Scratch scratch(ring.size() + FeatureRows::size(s, kMostRows, 1));
    float* const sums = scratch.data();
    FeatureRows feature_rows(s, features, kMostRows, 1, sums + ring.size());
    const std::unique_ptr<float*[]> targets(new float*[static_cast<size_t>(window.segments)]);
    const auto add = [&](int64_t n, int64_t y) {
      const float* const in = feature_rows.at(n, y);
      for (int64_t i = 0; i < window.segments; ++i)
        targets[i] =
            sums + ring.place(y * s.stride_height - s.padding_height + window.places[i].row) + window.places[i].offset;
      for_each_group(window.count, [&](auto vectors, int64_t first_vector) {
        constexpr int N = decltype(vectors)::value, R = kRows<N>;
        for (int64_t x = 0; x < s.width; x += R) {
          const int64_t from = std::max<int64_t>(std::min(x, s.width - R), 0);  // R positions, if there are as many
          spread_positions<N>(in + from * s.channels, s.channels, s.channels, filter + first_vector * L, columns,
                              window.starts.get() + first_vector, targets.get(), masks, ring, from, x - from,
                              s.width - from);
          feature_rows.fetch_next(R * s.channels);
        }
      });
    };
    for (int64_t row = begin; row < end;) {  // the rows of one image
      const int64_t n = row / s.image_height, first = row % s.image_height,
                    last = std::min(first + (end - row), s.image_height);
      std::fill_n(sums, ring.size(), 0.f);
      // The first row of features that reaches the rows, and the first row of the image that it reaches.
      const int64_t before = first + s.padding_height - s.kernel_height;
      int64_t y = before < 0 ? 0 : before / s.stride_height + 1;
      for (int64_t r = std::min(y * s.stride_height - s.padding_height, first); r < last; ++r) {
        for (; y < s.height && y * s.stride_height - s.padding_height <= r; ++y) add(n, y);
        float* const complete = sums + ring.place(r);
        if (r >= first) {
          const float* const from = complete + edge;
          float* const out = image + (n * s.image_height + r) * out_row;
          for (int64_t i = 0; i < out_row; i += L) {
            V sum = load(biases + i);
            for (int64_t copy = 0; copy < ring.copies; ++copy) sum += load(from + copy * ring.copy_size + i);
            const V result = activate(sum, slope);
            if (i + L <= out_row)
              store<false>(out + i, result);
            else
              store_partial(out + i, result, out_row - i);
          }
        }
        std::fill_n(complete - L, ring.row_size, 0.f);
      }
      row += last - first;
    }
  });
}
