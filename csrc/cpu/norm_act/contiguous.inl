// Contiguous tensors: the division of a channel's values. A row has `inner` neighbouring values of a channel.

// A block has the values of some whole rows or, if a row is long, of a part of one row.
struct Blocks {
  int64_t rows, pieces, all_rows, inner;  // rows per block; blocks per row
  int64_t count() const { return pieces > 1 ? all_rows * pieces : (all_rows + rows - 1) / rows; }
};

inline Blocks blocks_of(const NormShape& s) {
  const int64_t rows = s.inner >= kBlockValues ? 1 : kBlockValues / s.inner;
  const int64_t pieces = s.inner > kBlockValues ? (s.inner + kBlockValues - 1) / kBlockValues : 1;
  return {rows, pieces, s.rows, s.inner};
}

// Calls function(number, offset, length) for each contiguous chunk of a block. Each row has `pieces` chunks, and number
// counts the chunks of the channel. Offsets count from the channel's first value.
template <typename Function>
IGAN_FAST_INLINE void for_each_chunk(const Blocks& blocks, int64_t block, int64_t row_stride,
                                     const Function& function) {
  if (blocks.pieces > 1) {
    const int64_t row = block / blocks.pieces, first = block % blocks.pieces * kBlockValues;
    const int64_t left = blocks.inner - first;
    function(block, row * row_stride + first, left < kBlockValues ? left : kBlockValues);
  } else {
    const int64_t first = block * blocks.rows;
    const int64_t end = first + blocks.rows < blocks.all_rows ? first + blocks.rows : blocks.all_rows;
    for (int64_t row = first; row < end; ++row) function(row, row * row_stride, blocks.inner);
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
