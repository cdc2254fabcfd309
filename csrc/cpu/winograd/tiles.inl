// The tiles that images are cut into: what a tile reads and writes, and the planes that its transforms go to and come
// from.

inline int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// Planes one cache line further than a multiple of anything: all are written to at once, and must not share a set.
inline int64_t plane_of(int64_t rows, int64_t columns) { return round_up(rows * columns, 32) + 16; }

IGAN_FAST_INLINE V load_some(const float* from, int64_t lanes) {
  return lanes >= kLanes<float> ? load(from) : load_partial(from, lanes);
}

IGAN_FAST_INLINE void store_some(float* to, V v, int64_t lanes) {
  if (lanes >= kLanes<float>)
    store<false>(to, v);
  else
    store_partial(to, v, lanes);
}

// A rectangle of an image (rows, columns, channels), parts of which may lie outside.
struct Window {
  int64_t offset, row_stride, channels;
  int64_t top, left, rows, columns;  // of the image, from the window's corner

  Window(int64_t image, int64_t first_row, int64_t first_column, int64_t height, int64_t width, int64_t channels_)
      : offset(((image * height + first_row) * width + first_column) * channels_),
        row_stride(width * channels_),
        channels(channels_),
        top(-first_row),
        left(-first_column),
        rows(height),
        columns(width) {}
  bool has(int64_t r, int64_t c) const { return r >= top && r < top + rows && c >= left && c < left + columns; }
  bool whole(int64_t size) const { return has(0, 0) && has(size - 1, size - 1); }
  int64_t at(int64_t r, int64_t c) const { return offset + r * row_stride + c * channels; }
};

Window small_window(const ConvShape& s, int64_t image, int64_t row, int64_t column) {
  return Window(image, row, column, s.small_height, s.small_width, s.small_channels);
}

Window large_window(const ConvShape& s, int64_t image, int64_t row, int64_t column) {
  return Window(image, row, column, s.large_height, s.large_width, s.large_channels);
}

// The squares that images are cut into, the last of which may reach beyond them.
struct Tiles {
  int64_t side, down, across, count;
  Tiles(int64_t batch, int64_t height, int64_t width, int64_t side_)
      : side(side_),
        down((height + side_ - 1) / side_),
        across((width + side_ - 1) / side_),
        count(batch * down * across) {}
  int64_t image(int64_t tile) const { return tile / across / down; }
  int64_t row(int64_t tile) const { return tile / across % down * side; }
  int64_t column(int64_t tile) const { return tile % across * side; }
};

// planes[p][tile] = the transform of a window, for every channel; lanes past the last are 0.
template <typename Transform>
void split_window(const float* image, const Window& window, float* planes, int64_t plane) {
  const auto channels = [&](auto whole) IGAN_FAST_INLINE_LAMBDA {
    for (int64_t c = 0; c < window.channels; c += kLanes<float>) {
      const int64_t lanes = window.channels - c;
      both_ways<Transform>(
          [&](int row, int column) IGAN_FAST_INLINE_LAMBDA {
            if constexpr (!whole())
              if (!window.has(row, column)) return V{};
            return load_some(image + window.at(row, column) + c, lanes);
          },
          [&](int row, int column, V v)
              IGAN_FAST_INLINE_LAMBDA { store<false>(planes + (Transform::kOut * row + column) * plane + c, v); });
    }
  };
  window.whole(Transform::kIn) ? channels(std::true_type{}) : channels(std::false_type{});
}

// The other way: a tile of the image from its planes, plus bias, through a LeakyReLU.
template <typename Transform>
void join_tile(const float* planes, int64_t plane, const float* bias, float slope, float* image, const Window& window) {
  for (int64_t c = 0; c < window.channels; c += kLanes<float>) {
    const int64_t lanes = window.channels - c;
    const V shift = bias ? load_some(bias + c, lanes) : V{};
    both_ways<Transform>(
        [&](int row, int column)
            IGAN_FAST_INLINE_LAMBDA { return load(planes + (Transform::kIn * row + column) * plane + c); },
        [&](int row, int column, V v) IGAN_FAST_INLINE_LAMBDA {
          if (!window.has(row, column)) return;
          const V z = v + shift;
          store_some(image + window.at(row, column) + c, activate(z, slope), lanes);
        });
  }
}
