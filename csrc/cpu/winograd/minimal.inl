// Winograd's minimal filtering in one dimension (Winograd 1980; Lavin & Gray 2016, arXiv 1509.09308).
//
// F(M, T) computes M neighbouring outputs of a filter of T taps with M + T − 1 multiplications instead of M·T. It maps
// the input d and the filter w to M + T − 1 values each, multiplies these, and maps the products to the outputs:
//
//   y = A ((G w) ⊙ (B d))     B the input transform, G the filter transform, A the output transform
//
// The matrices hold small constants, so the transforms cost mainly additions. Each transform is shared: the input
// transform by all output channels, the filter transform by all tiles, the output transform by all input channels.
//
// F(2, 3) by hand, 4 multiplications instead of 6. The input is d = (1, 2, 3, 4), the filter w = (1, 0, 2).
//
//   B d   = (d0 − d2, d1 + d2, d2 − d1, d3 − d1)                    = (−2, 5, 1, 2)
//   G w   = (w0, (w0 + w1 + w2) / 2, (w0 − w1 + w2) / 2, w2)        = (1, 1.5, 1.5, 2)
//   m     = their products                                          = (−2, 7.5, 1.5, 4)
//   A m   = (m0 + m1 + m2, m1 − m2 + m3)                            = (7, 10)
//
// The direct sums are the same: 1·1 + 0·2 + 2·3 = 7 and 1·2 + 0·3 + 2·4 = 10.

typedef Vec<float> V;

template <int R, int C>
struct Matrix {
  float at[R][C];
};

// The matrices of F(M, T): input is B, filter is G, output is A. They follow from interpolation at M + T − 1 points
// (Cook and Toom). For M = 4 the points are 0, 1, −1, 2, −½, ∞ (T = 3) and 0, 1, −1, ½, ∞ (T = 2). Among several sets
// that were tried, these lose the fewest digits.
template <int M, int T>
struct Minimal;

template <int M>
struct Minimal<M, 1> {  // one tap: M multiplications either way
  static constexpr Matrix<M, M> identity() {
    Matrix<M, M> matrix{};
    for (int i = 0; i < M; ++i) matrix.at[i][i] = 1;
    return matrix;
  }
  static constexpr Matrix<M, 1> ones() {
    Matrix<M, 1> matrix{};
    for (int i = 0; i < M; ++i) matrix.at[i][0] = 1;
    return matrix;
  }
  static constexpr Matrix<M, M> input = identity(), output = identity();
  static constexpr Matrix<M, 1> filter = ones();
};

template <>
struct Minimal<2, 3> {
  static constexpr Matrix<4, 4> input = {{{1, 0, -1, 0}, {0, 1, 1, 0}, {0, -1, 1, 0}, {0, -1, 0, 1}}};
  static constexpr Matrix<4, 3> filter = {{{1, 0, 0}, {.5f, .5f, .5f}, {.5f, -.5f, .5f}, {0, 0, 1}}};
  static constexpr Matrix<2, 4> output = {{{1, 1, 1, 0}, {0, 1, -1, 1}}};
};

template <>
struct Minimal<2, 2> {
  static constexpr Matrix<3, 3> input = {{{1, -1, 0}, {0, 1, 0}, {0, -1, 1}}};
  static constexpr Matrix<3, 2> filter = {{{1, 0}, {1, 1}, {0, 1}}};
  static constexpr Matrix<2, 3> output = {{{1, 1, 0}, {0, 1, 1}}};
};

template <>
struct Minimal<4, 3> {
  static constexpr float t = 1 / 3.f, f = 1 / 15.f;
  static constexpr Matrix<6, 6> input = {{{1, 1.5f, -2, -1.5f, 1, 0},
                                          {0, -1, -2.5f, -.5f, 1, 0},
                                          {0, 1, .5f, -2.5f, 1, 0},
                                          {0, -.5f, -1, .5f, 1, 0},
                                          {0, 2, -1, -2, 1, 0},
                                          {0, 1, 1.5f, -2, -1.5f, 1}}};
  static constexpr Matrix<6, 3> filter = {
      {{1, 0, 0}, {-t, -t, -t}, {t, -t, t}, {f, 2 * f, 4 * f}, {-16 * f, 8 * f, -4 * f}, {0, 0, 1}}};
  static constexpr Matrix<4, 6> output = {
      {{1, 1, 1, 1, 1, 0}, {0, 1, -1, 2, -.5f, 0}, {0, 1, 1, 4, .25f, 0}, {0, 1, -1, 8, -.125f, 1}}};
};

template <>
struct Minimal<4, 2> {
  static constexpr float t = 1 / 3.f;
  static constexpr Matrix<5, 5> input = {
      {{.5f, -1, -.5f, 1, 0}, {0, -.5f, .5f, 1, 0}, {0, .5f, -1.5f, 1, 0}, {0, -1, 0, 1, 0}, {0, .5f, -1, -.5f, 1}}};
  static constexpr Matrix<5, 2> filter = {{{2, 0}, {1, 1}, {-t, t}, {-8 * t, -4 * t}, {0, 1}}};
  static constexpr Matrix<4, 5> output = {
      {{1, 1, 1, 1, 0}, {0, 1, -1, .5f, 0}, {0, 1, 1, .25f, 0}, {0, 1, -1, .125f, 1}}};
};

// The matrices of F(M, T) for the given points and ∞ (Cook and Toom). A row of B is the product of x − p over all
// points p but one; a row of G has the powers of that one, divided by the product's value there. The last row is that
// of ∞: the product over all points, and the highest power alone.
template <int M, int T>
struct Interpolation {
  static constexpr int N = M + T - 1;
  Matrix<N, N> input{};
  Matrix<N, T> filter{};
  Matrix<M, N> output{};

  constexpr explicit Interpolation(const double (&points)[N - 1]) {
    for (int r = 0; r < N; ++r) {
      double product[N] = {1}, value = 1;  // coefficients, the lowest first; the value at point r
      for (int p = 0, degree = 0; p < N - 1; ++p) {
        if (p == r) continue;
        for (int c = ++degree; c >= 0; --c) product[c] = (c > 0 ? product[c - 1] : 0) - points[p] * product[c];
        if (r < N - 1) value *= points[r] - points[p];
      }
      for (int c = 0; c < N; ++c) input.at[r][c] = static_cast<float>(product[c]);
      double power = 1;
      for (int k = 0; k < (M > T ? M : T); ++k) {
        const bool last_row = r == N - 1;
        if (k < T) filter.at[r][k] = static_cast<float>(last_row ? k == T - 1 : power / value);
        if (k < M) output.at[k][r] = static_cast<float>(last_row ? k == M - 1 : power);
        power *= last_row ? 0 : points[r];
      }
    }
  }
};

// Among several hundred sets of points, these lose the fewest digits.
template <>
struct Minimal<4, 4> {
  static constexpr Interpolation<4, 4> all = Interpolation<4, 4>({0, 1, -1, 2, 1 / 2., -2 / 3.});
  static constexpr Matrix<7, 7> input = all.input;
  static constexpr Matrix<7, 4> filter = all.filter;
  static constexpr Matrix<4, 7> output = all.output;
};

template <>
struct Minimal<4, 5> {
  static constexpr Interpolation<4, 5> all = Interpolation<4, 5>({0, 1, -1, 2, -2, 3 / 5., -3 / 5.});
  static constexpr Matrix<8, 8> input = all.input;
  static constexpr Matrix<8, 5> filter = all.filter;
  static constexpr Matrix<4, 8> output = all.output;
};

// Σ factor_at(c) · in_at(c) over c < C, in the order of c. The factors are known at compile time. A factor 0 costs
// nothing. A factor 1 costs no multiplication, nor does −1 unless it is the first.
template <int C, typename FactorAt, typename In>
IGAN_FAST_INLINE V dot(const FactorAt& factor_at, const In& in_at) {
  V sum{};
  bool any = false;
  unroll<C>([&](int c) IGAN_FAST_INLINE_LAMBDA {
    const float factor = factor_at(c);
    if (factor == 0) return;
    if (!any)
      sum = factor == 1 ? in_at(c) : in_at(c) * factor;
    else if (factor == 1)
      sum += in_at(c);
    else if (factor == -1)
      sum -= in_at(c);
    else
      sum += in_at(c) * factor;
    any = true;
  });
  return sum;
}

// Calls out(r, Σ matrix[r][c] · in_at(c)) for every row r.
template <int R, int C, typename In, typename Out>
IGAN_FAST_INLINE void times(const Matrix<R, C>& matrix, const In& in_at, const Out& out) {
  unroll<R>([&](int r) IGAN_FAST_INLINE_LAMBDA {
    out(r, dot<C>([&](int c) IGAN_FAST_INLINE_LAMBDA { return matrix.at[r][c]; }, in_at));
  });
}

// The same with the transposed matrix.
template <int R, int C, typename In, typename Out>
IGAN_FAST_INLINE void times_transposed(const Matrix<R, C>& matrix, const In& in_at, const Out& out) {
  unroll<C>([&](int c) IGAN_FAST_INLINE_LAMBDA {
    out(c, dot<R>([&](int r) IGAN_FAST_INLINE_LAMBDA { return matrix.at[r][c]; }, in_at));
  });
}
