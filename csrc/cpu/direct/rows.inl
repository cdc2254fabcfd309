// The rows of image and features that a product reads.

inline int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// The rows of an image that the windows of one row of features cover, with zeros for the padding. A row begins with the
// window of the first position.
class PaddedRows {
 public:
  // `positions` is the number of positions that are read, which may be more than the features' width.
  static int64_t row_size(const DirectShape& s, int64_t positions) {
    return round_up((positions - 1) * s.stride_width * s.image_channels, L) +
           round_up(s.kernel_width * s.image_channels, L);
  }
  // The number of floats of `memory`.
  static int64_t size(const DirectShape& s, int64_t positions) {
    return (s.kernel_height + 1) * row_size(s, positions);
  }

  PaddedRows(const DirectShape& s, const ImageStrides& strides, const float* image, int64_t positions, float* memory)
      : s_(s), strides_(strides), image_(image), memory_(memory), row_size_(row_size(s, positions)) {
    std::fill_n(memory, size(s, positions), 0.f);
    columns_ = std::max<int64_t>(std::min(s.image_width, row_size_ / s.image_channels - s.padding_width), 0);
  }

  // The rows for row y of the features of image n: pointers to as many rows as the kernel has. Within an image, y must
  // not decrease from call to call.
  const float* const* at(int64_t n, int64_t y) {
    const int64_t first = y * s_.stride_height - s_.padding_height, end = first + s_.kernel_height;
    next_ = n == n_ ? std::max(next_, first) : first;
    n_ = n;
    for (; next_ < end; ++next_)
      if (is_inside(next_)) copy(next_);
    for (int64_t k = 0; k < s_.kernel_height; ++k)
      rows_[k] = is_inside(first + k) ? slot(first + k) : memory_ + s_.kernel_height * row_size_;
    return rows_;
  }

 private:
  bool is_inside(int64_t row) const { return row >= 0 && row < s_.image_height; }
  float* slot(int64_t row) const { return memory_ + row % s_.kernel_height * row_size_; }

  void copy(int64_t row) const {
    const int64_t channels = s_.image_channels;
    const float* from = image_ + n_ * strides_.image + row * strides_.row;
    float* to = slot(row) + s_.padding_width * channels;
    if (strides_.channel == 1 && strides_.column == channels) {
      std::copy_n(from, columns_ * channels, to);
      return;
    }
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t x = 0; x < columns_; ++x) to[x * channels + c] = from[x * strides_.column + c * strides_.channel];
  }

  const DirectShape& s_;
  const ImageStrides strides_;
  const float* const image_;
  float* const memory_;
  const int64_t row_size_;
  int64_t columns_, n_ = -1, next_ = 0;
  const float* rows_[kMaxKernelHeight];
};

// The rows of the features. They are copied where LeakyReLU's gradient has to be applied, or where a row has fewer
// positions than a product reads at once, or a position's channels are no multiple of what it reads. The copy has more
// of them, and these are 0.
class FeatureRows {
 public:
  static int64_t size(const DirectShape& s, int64_t positions, int64_t multiple) {
    return std::max(s.width, positions) * round_up(s.channels, multiple);
  }

  FeatureRows(const DirectShape& s, const Features& features, int64_t positions, int64_t multiple, float* memory)
      : s_(s),
        features_(features),
        memory_(memory),
        row_(s.width * s.channels),
        size_(s.batch * s.height * row_),
        step_(round_up(s.channels, multiple)),
        copies_(features.signs || s.width < positions || s.channels != step_) {
    if (copies_) std::fill_n(memory, size(s, positions, multiple), 0.f);
  }

  // Row y of image n.
  const float* at(int64_t n, int64_t y) {
    const int64_t offset = (n * s_.height + y) * row_;
    next_ = offset + row_;
    end_ = std::min(next_ + row_, size_);
    const float* values = features_.values + offset;
    if (!copies_) return values;
    const float* signs = features_.signs ? features_.signs + offset : nullptr;
    for (int64_t x = 0; x < s_.width; ++x, values += s_.channels) {
      float* to = memory_ + x * step_;
      int64_t c = 0;
      for (; c + L <= s_.channels; c += L) {
        const V grad = load(values + c);
        store<false>(to + c,
                     signs ? activate_backward(load(signs + x * s_.channels + c), grad, features_.slope) : grad);
      }
      for (; c < s_.channels; ++c)
        to[c] = signs ? activate_backward(signs[x * s_.channels + c], values[c], features_.slope) : values[c];
    }
    return memory_;
  }

  // Fetches `count` more values of the next row into the second-level cache, while a product of this row is computed.
  void fetch_next(int64_t count) {
    constexpr int64_t kLine = 64 / sizeof(float);
    for (const int64_t end = std::min(next_ + count, end_); next_ < end; next_ += kLine) {
      __builtin_prefetch(features_.values + next_, 0, 2);
      if (features_.signs) __builtin_prefetch(features_.signs + next_, 0, 2);
    }
  }

 private:
  const DirectShape& s_;
  const Features features_;
  float* const memory_;
  const int64_t row_, size_, step_;
  const bool copies_;
  int64_t next_ = 0, end_ = 0;
};

// The vectors of channels whose sums are in registers at the same time.
constexpr int kMaxChannelVectors = IGAN_FAST_ISA_LEVEL == 2 ? 4 : 2;
constexpr int64_t kChannelGroup = kMaxChannelVectors * L;

// Calls function(std::integral_constant<int, N>, first channel) for the groups of channels; the last may have less than
// kChannelGroup.
template <int N = kMaxChannelVectors, typename Function>
IGAN_FAST_INLINE void with_channel_vectors(int64_t channels, int64_t first, const Function& function) {
  if constexpr (N > 1)
    if (channels <= (N - 1) * L) return with_channel_vectors<N - 1>(channels, first, function);
  function(std::integral_constant<int, N>{}, first);
}
template <typename Function>
IGAN_FAST_INLINE void for_each_channel_group(int64_t channels, const Function& function) {
  for (int64_t first = 0; first < channels; first += kChannelGroup)
    with_channel_vectors(std::min(channels - first, kChannelGroup), first, function);
}
