// The columns: where the tiles of all sequences lie, and the values that they read and write.

// Behind the tiles of a sequence are columns for what its last tile reads behind it: one for each part but the first,
// and one for the values behind a tile.
struct Columns {
  int64_t interleaved, tiles, per_sequence, count;

  explicit Columns(const Layer& layer)
      : interleaved(layer.in.interleaved),
        tiles(divided_up(layer.values, kTile)),
        per_sequence(tiles + layer.parts.count),
        count(layer.batch * interleaved * per_sequence) {}

  // Calls function(image, sequence, tile, offset, columns) for each sequence of `total` columns from `first` on: `tile`
  // is its first one, and `offset` is that of its first column. There are no sequences behind the last.
  template <typename Function>
  void each_sequence(int64_t first, int64_t total, const Function& function) const {
    int64_t sequence = first / per_sequence, tile = first % per_sequence;
    for (int64_t offset = 0; offset < total && first + offset < count; ++sequence, tile = 0) {
      const int64_t columns = std::min(per_sequence - tile, total - offset);
      function(sequence / interleaved, sequence % interleaved, tile, offset, columns);
      offset += columns;
    }
  }
};

// The part of [0, count) whose values begin + step · i lie in [0, length).
struct Inside {
  int64_t from, to;
  Inside(int64_t begin, int64_t step, int64_t count, int64_t length)
      : from(std::clamp<int64_t>(begin < 0 ? divided_up(-begin, step) : 0, 0, count)),
        to(std::clamp<int64_t>(begin < length ? divided_up(length - begin, step) : 0, from, count)) {}
};

// The 4 · total values of `total` columns from `first` on, of one channel, from `padding` places before each tile on.
// What lies outside is 0.
inline void read_columns(const Columns& columns, int64_t first, int64_t total, const Sequences& sequences,
                         int64_t channel, int64_t padding, const float* data, float* to) {
  int64_t end = 0;
  columns.each_sequence(first, total, [&](int64_t image, int64_t sequence, int64_t tile, int64_t offset, int64_t size) {
    const int64_t step = sequences.step(), count = kTile * size;
    const int64_t begin = sequences.position(channel, sequence, kTile * tile) - padding;
    const Inside inside(begin, step, count, sequences.length);
    float* values = to + kTile * offset;
    const float* from = data + image * sequences.image + sequences.memory_channel(channel) * sequences.length + begin;
    std::fill(values, values + inside.from, 0.f);
    if (step == 1)
      std::copy(from + inside.from, from + inside.to, values + inside.from);
    else
      for (int64_t i = inside.from; i < inside.to; ++i) values[i] = from[i * step];
    std::fill(values + inside.to, values + count, 0.f);
    end = kTile * (offset + size);
  });
  std::fill(to + end, to + kTile * total, 0.f);
}

// The opposite: writes the values that lie inside.
inline void write_columns(const Columns& columns, int64_t first, int64_t total, const Sequences& sequences,
                          int64_t channel, const float* values, float* data) {
  columns.each_sequence(first, total, [&](int64_t image, int64_t sequence, int64_t tile, int64_t offset, int64_t size) {
    const int64_t step = sequences.step(), begin = sequences.position(channel, sequence, kTile * tile);
    const int64_t count = kTile * std::clamp<int64_t>(columns.tiles - tile, 0, size);
    const Inside inside(begin, step, count, sequences.length);
    const float* from = values + kTile * offset;
    float* to = data + image * sequences.image + sequences.memory_channel(channel) * sequences.length + begin;
    if (step == 1)
      std::copy(from + inside.from, from + inside.to, to + inside.from);
    else
      for (int64_t i = inside.from; i < inside.to; ++i) to[i * step] = from[i];
  });
}

// Lane i is lane picked[i] of a and b, one after the other.
template <int... picked>
IGAN_FAST_INLINE V pick(V a, V b, std::integer_sequence<int, picked...>) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, picked...);
#else
  return __builtin_shuffle(a, b, Vec<int32_t>{picked...});
#endif
}

constexpr int every_second(int lane, int first) { return 2 * lane + first; }
constexpr int in_turn(int lane, int first) { return first + lane / 2 + lane % 2 * kLanes<float>; }

template <int first, int... lane>
IGAN_FAST_INLINE V every_second(V a, V b, std::integer_sequence<int, lane...>) {
  return pick(a, b, std::integer_sequence<int, every_second(lane, first)...>{});
}
template <int first, int... lane>
IGAN_FAST_INLINE V in_turn(V a, V b, std::integer_sequence<int, lane...>) {
  return pick(a, b, std::integer_sequence<int, in_turn(lane, first)...>{});
}

using Lanes = std::make_integer_sequence<int, kLanes<float>>;

// Value i of each of a vector's tiles, for i < 4. The tiles lie one after the other.
IGAN_FAST_INLINE void load_tiles(const float* from, V* values) {
  constexpr int L = kLanes<float>;
  const V a = load(from), b = load(from + L), c = load(from + 2 * L), d = load(from + 3 * L);
  const V even = every_second<0>(a, b, Lanes{}), odd = every_second<1>(a, b, Lanes{});
  const V later_even = every_second<0>(c, d, Lanes{}), later_odd = every_second<1>(c, d, Lanes{});
  values[0] = every_second<0>(even, later_even, Lanes{});
  values[1] = every_second<0>(odd, later_odd, Lanes{});
  values[2] = every_second<1>(even, later_even, Lanes{});
  values[3] = every_second<1>(odd, later_odd, Lanes{});
}

// The opposite of load_tiles.
IGAN_FAST_INLINE void store_tiles(float* to, const V* values) {
  constexpr int L = kLanes<float>;
  const V even = in_turn<0>(values[0], values[2], Lanes{}), odd = in_turn<0>(values[1], values[3], Lanes{});
  const V later_even = in_turn<L / 2>(values[0], values[2], Lanes{});
  const V later_odd = in_turn<L / 2>(values[1], values[3], Lanes{});
  store<false>(to, in_turn<0>(even, odd, Lanes{}));
  store<false>(to + L, in_turn<L / 2>(even, odd, Lanes{}));
  store<false>(to + 2 * L, in_turn<0>(later_even, later_odd, Lanes{}));
  store<false>(to + 3 * L, in_turn<L / 2>(later_even, later_odd, Lanes{}));
}

// The distance of a plane's rows: whole vectors, and an odd number of them, so that rows do not share their places in a
// cache.
inline int64_t row_size(int64_t columns) { return (divided_up(columns, kLanes<float>) | 1) * kLanes<float>; }

// The planes of one channel of the input for `columns` columns from `first` on, in whole vectors; `values` is room for
// 4 values of each and of one more.
template <typename F>
void input_transform(const Layer& layer, const Columns& all, const float* in, int64_t channel, int64_t first,
                     int64_t columns, float* values, float* to, int64_t plane) {
  const int64_t padded = round_up(columns, kLanes<float>);
  read_columns(all, first, padded + 1, layer.in, channel, layer.padding, in, values);
  for (int64_t column = 0; column < padded; column += kLanes<float>) {
    V d[2 * kTile];
    load_tiles(values + kTile * column, d);
    load_tiles(values + kTile * (column + 1), d + kTile);
    times(
        F::input, [&](int c) IGAN_FAST_INLINE_LAMBDA { return d[c]; },
        [&](int r, V sum) IGAN_FAST_INLINE_LAMBDA { store<false>(to + r * plane + column, sum); });
  }
}
