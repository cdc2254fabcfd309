// Contiguous tensors: the division of a channel's values. A row has `inner` neighbouring values of a channel.

// A block has the values of some whole rows or, if a row is long, of a part of one row.
struct Blocks {
  int64_t rows, pieces, all_rows, inner;  // rows per block; blocks per row
  int64_t count() const { return pieces > 1 ? all_rows * pieces : (all_rows + rows - 1) / rows; }
  int64_t values(int64_t block) const {
    if (pieces > 1) return std::min(kBlockValues, inner - block % pieces * kBlockValues);
    return std::min(rows, all_rows - block * rows) * inner;
  }
};

inline Blocks blocks_of(const NormShape& s) {
  const int64_t rows = s.inner >= kBlockValues ? 1 : kBlockValues / s.inner;
  const int64_t pieces = s.inner > kBlockValues ? (s.inner + kBlockValues - 1) / kBlockValues : 1;
  return {rows, pieces, s.rows, s.inner};
}

// Neighbouring channels of a group are computed together, because their rows are neighbours in memory, too: rows of a
// few KiB that lie apart are read at less than half the speed of long ones. The values of all these channels are read
// twice, so they should stay in a core's caches. The arithmetic of a channel does not depend on how many are computed
// together.
constexpr int64_t kMaxTogether = 64;             // channels
constexpr int64_t kLongRowBytes = 32768;         // of an input; longer rows are hardly faster
constexpr int64_t kTogetherBytes = 2048 * 1024;  // of all inputs

// The number of channels to compute together, for `inputs` tensors of values of `bytes` bytes.
inline int64_t channels_together(const NormShape& s, int64_t inputs, int64_t bytes) {
  const int64_t row = s.inner * bytes;
  return std::clamp<int64_t>(std::min(kLongRowBytes / row, kTogetherBytes / (inputs * s.rows * row)), 1, kMaxTogether);
}

// Calls function(first, count) for channels of [begin, end) that are computed together; channels are numbered over all
// groups.
template <typename Function>
IGAN_FAST_INLINE void for_each_together(const NormShape& s, int64_t together, int64_t begin, int64_t end,
                                        const Function& function) {
  while (begin < end) {
    const int64_t group_end = (begin / s.channels + 1) * s.channels;
    const int64_t count = std::min({together, end - begin, group_end - begin});
    function(begin, count);
    begin += count;
  }
}

// Calls function(k, number, offset, length) for each contiguous chunk of a block of `channels` neighbouring channels,
// in the order of memory. Each row has `pieces` chunks, and number counts the chunks of channel k. Offsets count from
// the first channel's first value.
template <typename Function>
IGAN_FAST_INLINE void for_each_chunk(const Blocks& blocks, int64_t block, int64_t channels, int64_t row_stride,
                                     const Function& function) {
  if (blocks.pieces > 1) {
    const int64_t start = block / blocks.pieces * row_stride + block % blocks.pieces * kBlockValues;
    for (int64_t k = 0; k < channels; ++k) function(k, block, start + k * blocks.inner, blocks.values(block));
  } else {
    const int64_t first = block * blocks.rows, end = std::min(first + blocks.rows, blocks.all_rows);
    for (int64_t row = first; row < end; ++row)
      for (int64_t k = 0; k < channels; ++k) function(k, row, row * row_stride + k * blocks.inner, blocks.inner);
  }
}

// Whether to write with streaming stores. For them, every row has to begin at an aligned address.
template <typename T>
bool streams(const NormShape& s, const T* out) {
  const int64_t bytes = s.groups * s.values() * s.channels * static_cast<int64_t>(sizeof(T));
  return s.inner * static_cast<int64_t>(sizeof(T)) % 64 == 0 && bypasses_caches(bytes, out);
}

// The parallel tasks of a call. If there are many channels, a task is a whole channel, which is normalised while the
// cache still holds the values that its statistics have read. Else a task is a segment of a channel's blocks.
struct Tasks {
  int64_t channels, segments, blocks;  // channels of all groups; segments of a channel; blocks of a channel
  int64_t first_block(int64_t segment) const { return blocks * segment / segments; }
};

inline Tasks tasks_of(const NormShape& s, const Blocks& blocks) {
  const int64_t channels = s.groups * s.channels;
  int64_t segments = 1;
  if (channels < kMinTasks) {
    segments = s.values() / kSegmentValues;
    segments = segments < 1 ? 1 : segments > kMaxSegments ? kMaxSegments : segments;
    segments = segments > blocks.count() ? blocks.count() : segments;
  }
  return {channels, segments, blocks.count()};
}

// The offset of a channel's first value; channels are numbered over all groups.
inline int64_t offset_of(const NormShape& s, int64_t channel) {
  const int64_t row_stride = s.channels * s.inner;
  return channel / s.channels * s.rows * row_stride + channel % s.channels * s.inner;
}

// The offset of a channel's values in the film of its group's first image.
inline int64_t film_offset_of(const NormShape& s, int64_t channel) {
  return channel / s.channels * s.rows * 2 * s.channels + channel % s.channels;
}

// The normalisation of `count` neighbouring channels from `first` on.
template <typename A>
void affine_of(const NormShape& s, const NormParams<A>& params, const A* mean, const A* var, int64_t first,
               int64_t count, Affine<A>* affine) {
  for (int64_t k = 0; k < count; ++k) {
    const int64_t channel = first + k, c = channel % s.channels;
    affine[k] = {mean[channel], params.weight[c] * inverse_std(var[channel], params.eps), params.bias[c], params.slope};
  }
}
