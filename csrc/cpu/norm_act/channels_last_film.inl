// channels_last tensors with film. The group is divided into images first, and no block goes from one image to the
// next, because each image has its own scale and shift, and its own sums of their gradients.

template <typename A>
struct Images {
  Rows<A> rows;   // of one image
  int64_t count;  // in a group
  int64_t size;   // values of an image

  explicit Images(const NormShape& s)
      : rows(NormShape{1, s.image_rows, s.channels, s.inner, s.image_rows}),
        count(s.rows / s.image_rows),
        size(s.image_rows * s.channels * s.inner) {}
  int64_t blocks_per_image() const { return rows.blocks() + (rows.tail != 0); }
  int64_t blocks() const { return count * blocks_per_image(); }
  Span span(int64_t block) const {
    const int64_t b = block % blocks_per_image();
    return b < rows.blocks() ? rows.block(b) : rows.tail_span();
  }
  int64_t segments() const {
    const int64_t wanted = count * size / kSegmentValues;
    return std::min(std::max<int64_t>(wanted, 1), std::min(kMaxSegments, blocks()));
  }
  int64_t first_block(int64_t segment) const { return blocks() * segment / segments(); }
};

// The film of one image's columns, and the sums over a block that give its gradient.
template <typename A>
struct ColumnFilm {
  std::unique_ptr<A[]> memory;
  A *scale, *shift, *scale_sums, *shift_sums;

  explicit ColumnFilm(const Rows<A>& rows) : memory(new A[static_cast<size_t>(4 * rows.padded)]()) {
    scale = memory.get();
    shift = scale + rows.padded;
    scale_sums = shift + rows.padded;
    shift_sums = scale_sums + rows.padded;
  }
  // film is (2, channels).
  void load_image(const Rows<A>& rows, const A* film) {
    const int64_t inner = rows.inner, row = rows.channels * inner;
    if (rows.width == rows.channels) {  // a column is a channel
      for (int64_t c = 0; c < rows.channels; ++c) scale[c] = 1 + film[c];
      std::memcpy(shift, film + rows.channels, static_cast<size_t>(rows.channels) * sizeof(A));
      return;
    }
    for (int64_t first = 0; first < rows.width; first += row)
      for (int64_t c = 0; c < rows.channels; ++c) {
        const Film<A> f = film_of(film, rows.channels, 0, c);
        for (int64_t j = first + c * inner; j < first + (c + 1) * inner; ++j) scale[j] = f.scale, shift[j] = f.shift;
      }
  }
  // Writes the sums over the first `width` columns for each channel, (2, channels).
  void store_sums(const Rows<A>& rows, int64_t width, A* to) const {
    if (width == rows.channels) {  // a column is a channel
      std::memcpy(to, scale_sums, static_cast<size_t>(width) * sizeof(A));
      std::memcpy(to + width, shift_sums, static_cast<size_t>(width) * sizeof(A));
      return;
    }
    for (int64_t c = 0; c < rows.channels; ++c) {
      double sum_scale = 0, sum_shift = 0;
      for_each_column(rows, c, width, [&](int64_t j) {
        sum_scale += static_cast<double>(scale_sums[j]);
        sum_shift += static_cast<double>(shift_sums[j]);
      });
      to[c] = static_cast<A>(sum_scale);
      to[rows.channels + c] = static_cast<A>(sum_shift);
    }
  }
};

// Calls function(block, offset, span, film) for the blocks [begin, end) of a group, or from end − 1 to begin if
// `reversed`. `offset` is that of the image's first value in the group. `film` holds the values of the image.
template <typename A, typename Function>
void for_each_block_of_images(const Images<A>& images, int64_t begin, int64_t end, bool reversed, const A* film,
                              const Function& function) {
  ColumnFilm<A> columns(images.rows);
  int64_t loaded = -1;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t block = reversed ? begin + end - 1 - i : i, image = block / images.blocks_per_image();
    if (image != loaded) columns.load_image(images.rows, film + image * 2 * images.rows.channels);
    loaded = image;
    function(block, image * images.size, images.span(block), columns);
  }
}

// Calls function(block, offset, span, film, segment) for the blocks of every segment, the segments in parallel.
template <typename A, typename Function>
void for_each_segment_of_images(const Images<A>& images, const Segments<A>& segments, const A* film,
                                ParallelFor parallel_for, const Function& function) {
  parallel(parallel_for, segments.count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s)
      for_each_block_of_images(images, images.first_block(s), images.first_block(s + 1), false, film,
                               [&](int64_t block, int64_t offset, const Span& span, ColumnFilm<A>& columns) {
                                 function(block, offset, span, columns, segments.list[s]);
                               });
  });
}

// Calls function(offset, span, film) for every block, in parallel and in the order of for_each_block_reversed.
template <typename A, typename Function>
void for_each_block_of_images_reversed(const Images<A>& images, const A* film, ParallelFor parallel_for,
                                       const Function& function) {
  const int64_t grain = 1 + kSegmentValues * images.blocks_per_image() / (images.size + 1);
  parallel(parallel_for, images.blocks(), grain, [&](int64_t begin, int64_t end) {
    for_each_block_of_images(
        images, begin, end, true, film,
        [&](int64_t, int64_t offset, const Span& span, ColumnFilm<A>& columns) { function(offset, span, columns); });
    end_streams();
  });
}
