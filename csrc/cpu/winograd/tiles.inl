// Feature maps are divided into tiles. This file defines the windows that a tile reads and writes, and how they are
// transformed to planes (tiles, channels).

// Calls function with the address of value `at`, as a pointer to its type: float with kFloat, else a half type. Which
// one is found anew for each vector. That costs less than it would to compile all transforms for each type.
template <bool kFloat, typename Void, typename Function>
IGAN_FAST_INLINE auto with_address(ValuesAt<Void> values, int64_t at, const Function& function) {
  const auto address_of = [&](auto zero) IGAN_FAST_INLINE_LAMBDA {
    using T = decltype(zero);
    using P = std::conditional_t<std::is_same_v<Void, void*>, T*, const T*>;
    return static_cast<P>(values.data) + at;
  };
  if constexpr (kFloat)
    return function(address_of(float{}));
  else
    return values.dtype == Dtype::Half ? function(address_of(Half{})) : function(address_of(BFloat16{}));
}

// Loads a whole vector, or only the first `lanes` values if `lanes` is smaller than a vector.
template <typename T>
IGAN_FAST_INLINE V load_lanes(const T* from, int64_t lanes) {
  return lanes >= kLanes<float> ? load(from) : load_partial(from, lanes);
}

template <typename T>
IGAN_FAST_INLINE void store_lanes(T* to, V v, int64_t lanes) {
  if (lanes >= kLanes<float>)
    store<false>(to, v);
  else
    store_partial(to, v, lanes);
}

// A square of a feature map (rows, columns, channels) that a tile reads or writes. Parts of it may lie outside.
struct Window {
  int64_t offset, row_stride, channels;
  int64_t top, left, rows, columns;  // first row and column of the feature map, relative to the window; its size

  Window(int64_t image, int64_t first_row, int64_t first_column, int64_t height, int64_t width, int64_t channels_)
      : offset(((image * height + first_row) * width + first_column) * channels_),
        row_stride(width * channels_),
        channels(channels_),
        top(-first_row),
        left(-first_column),
        rows(height),
        columns(width) {}
  bool is_inside(int64_t r, int64_t c) const { return r >= top && r < top + rows && c >= left && c < left + columns; }
  bool is_all_inside(int64_t size) const { return is_inside(0, 0) && is_inside(size - 1, size - 1); }
  int64_t at(int64_t r, int64_t c) const { return offset + r * row_stride + c * channels; }
};

inline Window small_window(const ConvShape& s, int64_t image, int64_t row, int64_t column) {
  return Window(image, row, column, s.small_height, s.small_width, s.small_channels);
}

inline Window large_window(const ConvShape& s, int64_t image, int64_t row, int64_t column) {
  return Window(image, row, column, s.large_height, s.large_width, s.large_channels);
}

// The tiles of all images of a batch. The last of a row or column may reach beyond the feature map.
struct Tiles {
  int64_t side, down, across, count;
  Tiles(int64_t batch, int64_t height, int64_t width, int64_t side_)
      : side(side_), down(divided_up(height, side_)), across(divided_up(width, side_)), count(batch * down * across) {}
  int64_t image(int64_t tile) const { return tile / across / down; }
  int64_t row(int64_t tile) const { return tile / across % down * side; }
  int64_t column(int64_t tile) const { return tile % across * side; }
};

// How the columns of a plane are stored: in strips of `width` columns, which are whole vectors. Strips are `distance`
// floats apart, and rows within a strip are `width` floats apart.
struct Strips {
  int64_t width, distance;
  int64_t at(int64_t column) const { return column / width * distance + column % width; }
};

// Transforms all channels of a window into one row of the planes. `planes` points to the row in the first strip of the
// first plane. Values outside of the feature map are 0, and so are lanes past the last channel.
template <typename Transform>
void input_transform(Values feature_map, const Window& window, float* planes, int64_t plane, const Strips& strips) {
  const auto transform_channels = [&](auto is_float, auto all_inside) IGAN_FAST_INLINE_LAMBDA {
    for (int64_t c = 0; c < window.channels; c += kLanes<float>) {
      const int64_t lanes = window.channels - c;
      float* const to = planes + strips.at(c);
      transform_2d<Transform>(
          [&](int row, int column) IGAN_FAST_INLINE_LAMBDA {
            if constexpr (!all_inside())
              if (!window.is_inside(row, column)) return V{};
            return with_address<is_float()>(feature_map, window.at(row, column) + c,
                                            [&](auto from) IGAN_FAST_INLINE_LAMBDA { return load_lanes(from, lanes); });
          },
          [&](int row, int column, V v)
              IGAN_FAST_INLINE_LAMBDA { store<false>(to + (Transform::kOut * row + column) * plane, v); });
    }
  };
  if (feature_map.dtype != Dtype::Float)
    transform_channels(std::false_type{}, std::false_type{});
  else if (window.is_all_inside(Transform::kIn))
    transform_channels(std::true_type{}, std::true_type{});
  else
    transform_channels(std::true_type{}, std::false_type{});
}

// Writes LeakyReLU(transform + bias) of one row of the planes to a tile of the feature map.
template <typename Transform>
void output_transform(const float* planes, int64_t plane, const float* bias, float slope, MutableValues feature_map,
                      const Window& window) {
  const auto transform_channels = [&](auto is_float) IGAN_FAST_INLINE_LAMBDA {
    for (int64_t c = 0; c < window.channels; c += kLanes<float>) {
      const int64_t lanes = window.channels - c;
      const V shift = bias ? load_lanes(bias + c, lanes) : V{};
      transform_2d<Transform>(
          [&](int row, int column)
              IGAN_FAST_INLINE_LAMBDA { return load(planes + (Transform::kIn * row + column) * plane + c); },
          [&](int row, int column, V v) IGAN_FAST_INLINE_LAMBDA {
            if (!window.is_inside(row, column)) return;
            const V z = v + shift;
            with_address<is_float()>(feature_map, window.at(row, column) + c, [&](auto to) IGAN_FAST_INLINE_LAMBDA {
              store_lanes(to, activate(z, slope), lanes);
            });
          });
    }
  };
  feature_map.dtype == Dtype::Float ? transform_channels(std::true_type{}) : transform_channels(std::false_type{});
}
