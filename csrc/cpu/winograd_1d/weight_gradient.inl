// The gradient of the weights.

constexpr int64_t kSumBytes = int64_t{4} << 20;                 // sums of this size stay in the caches between blocks
constexpr int64_t kBlockBytesForSmallSums = int64_t{3} << 20;   // size of the planes of a block of columns
constexpr int64_t kBlockBytesForLargeSums = int64_t{24} << 20;  // the same if the sums are larger than kSumBytes
constexpr int64_t kMinGradientColumns = 64;                     // of a block
constexpr int64_t kChunk = 64;                                  // columns that are transposed together

// The sums of a panel of input channels, for each product and part: a matrix (out channels, kPanel). The products are
// summed over the columns of a block at a time.
template <typename F>
struct WeightGradient {
  const Layer& layer;
  const Columns all;
  const int64_t in_channels, out_channels, parts;
  const int64_t panels, sum, tasks;  // sum: a sum's size; tasks: the number of sums
  const int64_t columns, blocks;     // of a block; their number
  const int64_t in_row, out_row, in_plane, out_plane;

  explicit WeightGradient(const Layer& layer_)
      : layer(layer_),
        all(layer),
        in_channels(layer.in.channels),
        out_channels(layer.out.channels),
        parts(layer.parts.count),
        panels(divided_up(in_channels, kPanel)),
        sum(out_channels * kPanel),
        tasks(F::kProducts * parts * panels),
        columns(round_up(divided_up(all.count, divided_up(all.count, most_columns())), kLanes<float>)),
        blocks(divided_up(all.count, columns)),
        in_row(row_size(in_channels)),
        out_row(row_size(columns)),
        in_plane(plane_size(columns + parts - 1, in_row)),
        out_plane(plane_size(out_channels, out_row)) {}

  int64_t most_columns() const {
    const int64_t bytes = tasks * sum * 4 <= kSumBytes ? kBlockBytesForSmallSums : kBlockBytesForLargeSums;
    return std::max(bytes / (F::kProducts * 4 * (in_channels + out_channels)), kMinGradientColumns);
  }

  // The planes (columns, channels) of a vector's input channels, for `count` columns.
  void transform_in(const float* in, int64_t channel, int64_t first, int64_t count, float* to) const {
    constexpr int L = kLanes<float>;
    const int64_t lanes = std::min<int64_t>(L, in_channels - channel), padded = round_up(count, L);
    const Scratch scratch(kTile * (padded + 1) + F::kProducts * L * kChunk);
    float *values = scratch.data(), *rows = values + kTile * (padded + 1);
    for (int64_t lane = 0; lane < lanes; ++lane)
      input_transform<F>(layer, all, in, channel + lane, first, count, values, rows + lane * kChunk, L * kChunk);
    for (int64_t p = 0; p < F::kProducts; ++p)
      transpose_tile(rows + p * L * kChunk, lanes, count, kChunk, to + p * in_plane + channel, in_row);
  }

  // The planes (channels, columns) of a channel of the output's gradient.
  void transform_out(const float* out, int64_t channel, int64_t first, int64_t count, float* to) const {
    constexpr int L = kLanes<float>;
    const int64_t padded = round_up(count, L);
    const Scratch values(kTile * padded);
    read_columns(all, first, padded, layer.out, channel, 0, out, values.data());
    for (int64_t column = 0; column < padded; column += L) {
      V y[kTile];
      load_tiles(values.data() + kTile * column, y);
      times_transposed(
          F::output, [&](int r) IGAN_FAST_INLINE_LAMBDA { return y[r]; },
          [&](int p, V value)
              IGAN_FAST_INLINE_LAMBDA { store<false>(to + p * out_plane + channel * out_row + column, value); });
    }
  }

  // The products of a block's `count` columns, added to the sums unless they are the first.
  void multiply(int64_t task, int64_t count, const float* ins, const float* outs, bool first, float* sums) const {
    const int64_t panel = task % panels, part = task / panels % parts, p = task / panels / parts;
    multiply_rows_of(!first, in_channels - panel * kPanel > kLanes<float>)(
        out_channels, outs + p * out_plane, out_row, 1, ins + p * in_plane + part * in_row + panel * kPanel, in_row,
        count, sums + task * sum, kPanel);
  }

  // The weights' gradient for one output channel.
  void finish(int64_t channel, const float* sums, float* gradient) const {
    constexpr int L = kLanes<float>;
    const int64_t memory_channels = in_channels / layer.stride;
    for (int64_t part = 0; part < parts; ++part)
      for (int64_t in = 0; in < in_channels; in += L) {
        V w[F::kTaps];
        times_transposed(
            F::filter,
            [&](int p) IGAN_FAST_INLINE_LAMBDA {
              const int64_t task = (p * parts + part) * panels + in / kPanel;
              return load(sums + task * sum + channel * kPanel + in % kPanel);
            },
            [&](int k, V value) IGAN_FAST_INLINE_LAMBDA { w[k] = value; });
        for (int64_t lane = 0; lane < std::min<int64_t>(L, in_channels - in); ++lane) {
          float* to = gradient + (channel * memory_channels + (in + lane) / layer.stride) * layer.taps;
          for (int64_t k = 0; k < taps_of_part(layer, part); ++k) {
            const int64_t tap = layer.stride * (kTile * part + k) + (in + lane) % layer.stride;
            if (tap < layer.taps) to[tap] = w[k][lane];
          }
        }
      }
  }
};

template <typename F>
void weight_gradient(const Layer& layer, int64_t group, const float* ins_of_all, const float* outs_of_all,
                     float* gradients, ParallelFor parallel_for) {
  constexpr int L = kLanes<float>;
  const WeightGradient<F> w(layer);
  const float *const in = ins_of_all + group * layer.in.group, *const out = outs_of_all + group * layer.out.group;
  float* const gradient = gradients + group * w.out_channels * (w.in_channels / layer.stride) * layer.taps;
  const Scratch scratch(F::kProducts * (w.in_plane + w.out_plane) + w.tasks * w.sum);
  float* const ins = scratch.data();
  float* const outs = ins + F::kProducts * w.in_plane;
  float* const sums = outs + F::kProducts * w.out_plane;
  for (int64_t block = 0; block < w.blocks; ++block) {
    const int64_t first = block * w.columns, count = std::min(w.columns, w.all.count - first);
    const int64_t chunks = divided_up(count + w.parts - 1, kChunk);
    parallel(parallel_for, divided_up(w.in_channels, L) * chunks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t at = task % chunks * kChunk;
        w.transform_in(in, task / chunks * L, first + at, std::min(kChunk, count + w.parts - 1 - at),
                       ins + at * w.in_row);
      }
    });
    parallel(parallel_for, w.out_channels, 1, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c) w.transform_out(out, c, first, count, outs);
    });
    parallel(parallel_for, w.tasks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) w.multiply(task, count, ins, outs, block == 0, sums);
    });
  }
  parallel(parallel_for, w.out_channels, 4, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) w.finish(c, sums, gradient);
  });
}
