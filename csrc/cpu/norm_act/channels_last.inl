// channels_last tensors: the division of a group's values. A row has channels · inner values, which are its columns.
// (inner is 1, except for small contiguous tensors, see fills_vectors.) A vector holds neighbouring columns. Each
// column is summed separately; the columns of a channel are combined at the end.

constexpr int64_t kWideRow = 512;                         // columns; rows with as many or more are not merged, see Rows
constexpr int kStrip = IGAN_FAST_ISA_LEVEL == 2 ? 8 : 4;  // vectors of a row whose sums are kept in registers together
constexpr int64_t kBlockBytes = 131072;                   // of a block in the compute type: half a level-2 cache

// The first `width` columns of the rows [begin, end).
struct Span {
  int64_t begin, end, width;
};

// If the columns of a row do not fill whole vectors, or fill only a few, several rows of the tensor are merged into
// one. Wide rows are not merged, because one partial vector at the end costs little. From here on, "row" means a merged
// row.
//
// Example: 3 channels and vectors of 16 floats. 16 rows of the tensor are one merged row of 48 columns, which are 3
// whole vectors. 40 rows of the tensor are two merged rows and a tail of 8 rows. The tail is half a merged row, 24
// columns: a vector of 16 and a partial vector of 8.
template <typename A>
struct Rows {
  int64_t channels, inner;
  int64_t width;      // columns of a row
  int64_t padded;     // the width in whole vectors
  int64_t count;      // whole rows
  int64_t tail;       // columns of the incomplete row after them; 0 where there is none
  int64_t per_block;  // rows

  explicit Rows(const NormShape& s) : channels(s.channels), inner(s.inner) {
    constexpr int64_t L = kLanes<A>;
    const int64_t columns = channels * inner;
    int64_t merged = columns % L == 0 || columns >= kWideRow ? 1 : L / std::gcd(columns, L);
    while (merged * columns < kStrip * L && 8 * merged <= s.rows) merged *= 2;
    width = columns * merged;
    padded = (width + L - 1) / L * L;
    count = s.rows / merged;
    tail = s.rows % merged * columns;
    per_block = std::max<int64_t>(kBlockBytes / (padded * static_cast<int64_t>(sizeof(A))), 16);
  }
  int64_t channel_of(int64_t column) const { return column / inner % channels; }
  int64_t blocks() const { return (count + per_block - 1) / per_block; }
  Span block(int64_t b) const { return {b * per_block, std::min((b + 1) * per_block, count), width}; }
  Span tail_span() const { return {count, count + 1, tail}; }
  int64_t segments() const {
    const int64_t wanted = count * width / kSegmentValues;
    return std::min(std::max<int64_t>(wanted, 1), std::min(kMaxSegments, std::max<int64_t>(blocks(), 1)));
  }
  int64_t first_block(int64_t segment) const { return blocks() * segment / segments(); }
};

// Loads `lanes` values, a whole vector or fewer; the other lanes become 0.
template <typename T>
IGAN_FAST_INLINE auto load_lanes(const T* from, int64_t lanes) {
  return lanes == kLanes<typename AccOf<T>::type> ? load(from) : load_partial(from, lanes);
}

// Writes function(offset, column, lanes) to `to` + offset for every vector of a span, row by row. The last vector of a
// row may have fewer lanes. With kStream, whole vectors are written by streaming stores.
template <bool kStream, typename T, typename A, typename Function>
IGAN_FAST_INLINE void write_vectors(T* to, const Rows<A>& rows, const Span& span, const Function& function) {
  constexpr int64_t L = kLanes<A>;
  const int64_t stride = rows.width, width = span.width, end = span.end;
  for (int64_t r = span.begin; r < end; ++r) {
    int64_t column = 0, at = r * stride;
    for (; column + 2 * L <= width; column += 2 * L, at += 2 * L)
      store_pair<kStream>(to + at, function(at, column, L), function(at + L, column + L, L));
    for (; column + L <= width; column += L, at += L) store<kStream>(to + at, function(at, column, L));
    if (column < width) store_partial(to + at, function(at, column, width - column), width - column);
  }
}

// Calls strip(column, lanes, count) for strips of a span's columns: of kVectors whole vectors, then of one vector each.
// The last vector may have fewer lanes. `count`, the number of vectors, is a type: it is known at compile time.
template <typename A, int kVectors = kStrip, typename Function>
IGAN_FAST_INLINE void for_each_strip(const Span& span, const Function& strip) {
  constexpr int64_t L = kLanes<A>;
  int64_t column = 0;
  for (; column + kVectors * L <= span.width; column += kVectors * L)
    strip(column, L, std::integral_constant<int, kVectors>{});
  for (; column + L <= span.width; column += L) strip(column, L, std::integral_constant<int, 1>{});
  if (column < span.width) strip(column, span.width - column, std::integral_constant<int, 1>{});
}

// Calls function(column) for the columns of a channel among the first `width` ones.
template <typename A, typename Function>
IGAN_FAST_INLINE void for_each_column(const Rows<A>& rows, int64_t channel, int64_t width, const Function& function) {
  for (int64_t first = channel * rows.inner; first < width; first += rows.channels * rows.inner)
    for (int64_t j = first; j < first + rows.inner; ++j) function(j);
}

// The sums of a segment so far, a and b, which are two doubles per column; and the arrays that the forward needs for a
// block. All arrays have rows.padded entries.
template <typename A>
struct Segment {
  double *a, *b;
  A *shift, *sums, *squares;
  int64_t rows;  // so far
};

template <typename A>
struct Segments {
  int64_t count;
  std::unique_ptr<double[]> doubles;
  std::unique_ptr<A[]> scratch;
  std::unique_ptr<Segment<A>[]> list;

  explicit Segments(const Rows<A>& rows) : Segments(rows, rows.segments()) {}
  Segments(const Rows<A>& rows, int64_t count_)
      : count(count_),
        doubles(new double[static_cast<size_t>(2 * rows.padded * count)]()),
        scratch(new A[static_cast<size_t>(3 * rows.padded * count)]()),
        list(new Segment<A>[static_cast<size_t>(count)]) {
    for (int64_t s = 0; s < count; ++s) {
      double* sums = doubles.get() + 2 * s * rows.padded;
      A* block = scratch.get() + 3 * s * rows.padded;
      list[s] = {sums, sums + rows.padded, block, block + rows.padded, block + 2 * rows.padded, 0};
    }
  }
};

// Calls function(span, segment) for the blocks of every segment, the segments in parallel.
template <typename A, typename Function>
void for_each_segment(const Rows<A>& rows, const Segments<A>& segments, ParallelFor parallel_for,
                      const Function& function) {
  parallel(parallel_for, rows.segments(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s)
      for (int64_t b = rows.first_block(s); b < rows.first_block(s + 1); ++b) function(rows.block(b), segments.list[s]);
  });
}

// Calls function(span) for every block, in parallel, and for the tail. A thread goes from its last block to its first,
// because the caches still hold the values that the sums have read last.
template <typename A, typename Function>
void for_each_block_reversed(const Rows<A>& rows, ParallelFor parallel_for, const Function& function) {
  if (rows.tail) {
    function(rows.tail_span());
    end_streams();
  }
  const int64_t grain = 1 + kSegmentValues / (rows.per_block * rows.width + 1);
  parallel(parallel_for, rows.blocks(), grain, [&](int64_t begin, int64_t end) {
    for (int64_t b = end - 1; b >= begin; --b) function(rows.block(b));
    end_streams();
  });
}

// Calls function(group, parallel_for) for each group. A few groups run one after the other, each on all threads. Many
// groups run in parallel, each on one thread.
template <typename Function>
void for_each_group(const NormShape& s, ParallelFor parallel_for, const Function& function) {
  if (s.groups < kMinTasks) {
    for (int64_t g = 0; g < s.groups; ++g) function(g, parallel_for);
  } else {
    const int64_t grain = 1 + kSegmentValues / (s.values() * s.channels + 1);
    parallel(parallel_for, s.groups, grain, [&](int64_t begin, int64_t end) {
      for (int64_t g = begin; g < end; ++g) function(g, &serially);
    });
  }
}

// Whether to write with streaming stores. For them, every row has to begin at an aligned address.
template <typename T>
bool streams(const NormShape& s, const T* out) {
  const int64_t row = s.channels * s.inner * static_cast<int64_t>(sizeof(T));
  return row % 64 == 0 && bypasses_caches(s.groups * s.rows * row, out);
}

// The parameters of a group's columns (see Affine and Gradient), each an array of rows.padded.
template <typename A>
struct ColumnParams {
  std::unique_ptr<A[]> memory;
  A *mean, *scale, *bias, *mean_term, *var_term;

  ColumnParams(const Rows<A>& rows, const NormParams<A>& params, const A* means, const A* vars)
      : memory(new A[static_cast<size_t>(5 * rows.padded)]()) {
    mean = memory.get();
    scale = mean + rows.padded;
    bias = scale + rows.padded;
    mean_term = bias + rows.padded;
    var_term = mean_term + rows.padded;
    for (int64_t j = 0; j < rows.width; ++j) {
      const int64_t c = rows.channel_of(j);
      mean[j] = means[c];
      scale[j] = params.weight[c] * inverse_std(vars[c], params.eps);
      bias[j] = params.bias[c];
    }
  }
};
