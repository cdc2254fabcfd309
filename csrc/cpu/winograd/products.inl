// The matrix products between the transforms: of each plane, (tiles, channels in) · (channels in, channels out).

// The rows and columns of the result whose sums are kept in registers at the same time.
constexpr int kRows = IGAN_FAST_ISA_LEVEL == 2 ? 12 : 6;
constexpr int64_t kPanel = 2 * kLanes<float>;

// c = a · b, or c += a · b with kAdd; a is (R, depth), b and c have `vectors` vectors in a row. a_row is the stride of
// a's rows, a_step that of its columns; they allow a to be a transposed matrix.
template <int R, int vectors, bool kAdd>
void multiply(const float* a, int64_t a_row, int64_t a_step, const float* b, int64_t b_step, int64_t depth, float* c,
              int64_t c_row) {
  constexpr int L = kLanes<float>;
  V sums[R][vectors] = {};
  for (int64_t k = 0; k < depth; ++k, a += a_step, b += b_step) {
    V row[vectors];
    unroll<vectors>([&](int v) IGAN_FAST_INLINE_LAMBDA { row[v] = load(b + v * L); });
    unroll<R>([&](int r) IGAN_FAST_INLINE_LAMBDA {
      const V factor = broadcast(a[r * a_row]);
      unroll<vectors>([&](int v) IGAN_FAST_INLINE_LAMBDA { sums[r][v] += factor * row[v]; });
    });
  }
  unroll<R>([&](int r) IGAN_FAST_INLINE_LAMBDA {
    unroll<vectors>([&](int v) IGAN_FAST_INLINE_LAMBDA {
      float* to = c + r * c_row + v * L;
      if constexpr (kAdd) sums[r][v] += load(to);
      store<false>(to, sums[r][v]);
    });
  });
}

using Multiply = void (*)(const float*, int64_t, int64_t, const float*, int64_t, int64_t, float*, int64_t);

template <int vectors, bool kAdd, int... r>
constexpr std::array<Multiply, sizeof...(r)> multiply_table(std::integer_sequence<int, r...>) {
  return {&multiply<r + 1, vectors, kAdd>...};
}

// The same as multiply(), for any number of rows of a and c.
template <bool kAdd, int vectors = 2>
void multiply_rows(int64_t rows, const float* a, int64_t a_row, int64_t a_step, const float* b, int64_t b_step,
                   int64_t depth, float* c, int64_t c_row) {
  static constexpr auto table = multiply_table<vectors, kAdd>(std::make_integer_sequence<int, kRows>{});
  for (int64_t m = 0; m < rows; m += kRows) {
    const int64_t left = rows - m < kRows ? rows - m : kRows;
    table[static_cast<size_t>(left - 1)](a + m * a_row, a_row, a_step, b, b_step, depth, c + m * c_row, c_row);
  }
}

using MultiplyRows = void (*)(int64_t, const float*, int64_t, int64_t, const float*, int64_t, int64_t, float*, int64_t);

// multiply_rows that adds or not, with two vectors in a row or one.
inline MultiplyRows multiply_rows_of(bool add, bool two_vectors) {
  if (two_vectors) return add ? &multiply_rows<true> : &multiply_rows<false>;
  return add ? &multiply_rows<true, 1> : &multiply_rows<false, 1>;
}
