// One group of a convolution, as one of stride 1 from `in` to `out`.

constexpr int kTile = 4;  // outputs

// F(4, T) of one part of a filter.
template <int T>
struct Filtering : Minimal<kTile, T> {
  static constexpr int kTaps = T, kProducts = kTile + T - 1;
};

// One side of a group: (images, channels, values), where each channel consists of `interleaved` sequences. With a
// stride, the values of a sequence belong in turn to `stride` channels, which are counted as such. Value 0 of the first
// of them is at `first`.
struct Sequences {
  int64_t channels, stride, interleaved, length, first;
  int64_t image, group;  // the distance of images and of groups in memory

  Sequences(int64_t all_channels, const Conv1d& s, int64_t stride_, int64_t length_, int64_t first_)
      : channels(all_channels / s.groups * stride_),
        stride(stride_),
        interleaved(s.interleaved),
        length(length_),
        first(first_),
        image(all_channels * length_),
        group(all_channels / s.groups * length_) {}

  int64_t memory_channel(int64_t channel) const { return channel / stride; }
  // Where a value of a channel's sequence is, and how far apart the values are.
  int64_t position(int64_t channel, int64_t sequence, int64_t value) const {
    return sequence + first + interleaved * (stride * value + channel % stride);
  }
  int64_t step() const { return interleaved * stride; }
};

// Value i of a sequence of `out` is Σ w[k] · in[i + k] over k < kernel, where in[0] is `padding` places before value 0.
struct Layer {
  bool transposed;
  Sequences in, out;
  int64_t batch;
  int64_t values;        // of a sequence of `out`
  int64_t taps, stride;  // of the weights
  int64_t kernel, padding;
  Parts parts;

  Layer(const Conv1d& s, bool transposed_)
      : transposed(transposed_),
        in(transposed ? small(s) : large(s, -s.padding)),
        out(transposed ? large(s, first_of_transposed(s)) : small(s)),
        batch(s.batch),
        values(divided_up(out.length - out.first, out.step())),
        taps(s.kernel),
        stride(s.stride),
        kernel(divided_up(s.kernel, s.stride)),
        padding(transposed ? s.interleaved * (kernel - 1) - (s.padding + out.first) / s.stride : 0),
        parts(parts_of(kernel)) {}

  static Sequences small(const Conv1d& s) { return {s.small_channels, s, 1, s.small_length, 0}; }
  static Sequences large(const Conv1d& s, int64_t first) {
    return {s.large_channels, s, s.stride, s.large_length, first};
  }
  // Of the values in the padding, whole strides are not computed.
  static int64_t first_of_transposed(const Conv1d& s) {
    return s.stride > 1 ? -(s.padding % (s.interleaved * s.stride)) : 0;
  }
};
