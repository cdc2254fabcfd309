// The transforms of minimal filtering (Winograd 1980; Lavin & Gray 2016) between images or filters and their products,
// for a filter of any size and stride.
//
// Along one direction, a filter of K taps and stride S is S filters of stride 1: the taps p, p + S, p + 2S … (phase p)
// meet only every S-th place of the large image. M values of the small image are then the sum of S correlations F(M, T)
// with T taps each, of M + T − 1 products instead of M·T: S·(M − 1) + K of them in all, instead of M·K.

typedef Vec<float> V;

template <int R, int C>
struct Matrix {
  float at[R][C];
};

// y = join · ((filter · w) ⊙ (split · d)) are the M values y of the correlation of d with the T taps w. Of the
// Cook–Toom matrices for tiles of 4, those for the points 0, 1, −1, 2, −½, ∞ and 0, 1, −1, ½, ∞ lose the fewest digits.
template <int M, int T>
struct Minimal;

template <int M>
struct Minimal<M, 1> {  // nothing to save
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
  static constexpr Matrix<M, M> split = identity(), join = identity();
  static constexpr Matrix<M, 1> filter = ones();
};

template <>
struct Minimal<2, 3> {
  static constexpr Matrix<4, 4> split = {{{1, 0, -1, 0}, {0, 1, 1, 0}, {0, -1, 1, 0}, {0, -1, 0, 1}}};
  static constexpr Matrix<4, 3> filter = {{{1, 0, 0}, {.5f, .5f, .5f}, {.5f, -.5f, .5f}, {0, 0, 1}}};
  static constexpr Matrix<2, 4> join = {{{1, 1, 1, 0}, {0, 1, -1, 1}}};
};

template <>
struct Minimal<2, 2> {
  static constexpr Matrix<3, 3> split = {{{1, -1, 0}, {0, 1, 0}, {0, -1, 1}}};
  static constexpr Matrix<3, 2> filter = {{{1, 0}, {1, 1}, {0, 1}}};
  static constexpr Matrix<2, 3> join = {{{1, 1, 0}, {0, 1, 1}}};
};

template <>
struct Minimal<4, 3> {
  static constexpr float t = 1 / 3.f, f = 1 / 15.f;
  static constexpr Matrix<6, 6> split = {{{1, 1.5f, -2, -1.5f, 1, 0},
                                          {0, -1, -2.5f, -.5f, 1, 0},
                                          {0, 1, .5f, -2.5f, 1, 0},
                                          {0, -.5f, -1, .5f, 1, 0},
                                          {0, 2, -1, -2, 1, 0},
                                          {0, 1, 1.5f, -2, -1.5f, 1}}};
  static constexpr Matrix<6, 3> filter = {
      {{1, 0, 0}, {-t, -t, -t}, {t, -t, t}, {f, 2 * f, 4 * f}, {-16 * f, 8 * f, -4 * f}, {0, 0, 1}}};
  static constexpr Matrix<4, 6> join = {
      {{1, 1, 1, 1, 1, 0}, {0, 1, -1, 2, -.5f, 0}, {0, 1, 1, 4, .25f, 0}, {0, 1, -1, 8, -.125f, 1}}};
};

template <>
struct Minimal<4, 2> {
  static constexpr float t = 1 / 3.f;
  static constexpr Matrix<5, 5> split = {
      {{.5f, -1, -.5f, 1, 0}, {0, -.5f, .5f, 1, 0}, {0, .5f, -1.5f, 1, 0}, {0, -1, 0, 1, 0}, {0, .5f, -1, -.5f, 1}}};
  static constexpr Matrix<5, 2> filter = {{{2, 0}, {1, 1}, {-t, t}, {-8 * t, -4 * t}, {0, 1}}};
  static constexpr Matrix<4, 5> join = {
      {{1, 1, 1, 1, 0}, {0, 1, -1, .5f, 0}, {0, 1, 1, .25f, 0}, {0, 1, -1, .125f, 1}}};
};

// Σ factor_at(c) · in_at(c) over C columns, in their order; factor_at(c) is known when compiling.
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

// out(r, Σ matrix[r][c] · in_at(c)) for every row r.
template <int R, int C, typename In, typename Out>
IGAN_FAST_INLINE void times(const Matrix<R, C>& matrix, const In& in_at, const Out& out) {
  unroll<R>([&](int r) IGAN_FAST_INLINE_LAMBDA {
    out(r, dot<C>([&](int c) IGAN_FAST_INLINE_LAMBDA { return matrix.at[r][c]; }, in_at));
  });
}

// The same with the matrix transposed.
template <int R, int C, typename In, typename Out>
IGAN_FAST_INLINE void times_transposed(const Matrix<R, C>& matrix, const In& in_at, const Out& out) {
  unroll<C>([&](int c) IGAN_FAST_INLINE_LAMBDA {
    out(c, dot<R>([&](int r) IGAN_FAST_INLINE_LAMBDA { return matrix.at[r][c]; }, in_at));
  });
}

// Of a filter of K taps and stride S.
constexpr int taps_of(int K, int S, int phase) { return (K - phase + S - 1) / S; }

// The first value of the small image that a phase of the transposed convolution meets; of all phases (see SplitSmall).
constexpr int first_small(int K, int S, int R, int phase) { return (phase < R) - taps_of(K, S, phase) + 1; }
constexpr int first_small(int K, int S, int R) {
  int first = first_small(K, S, R, 0);
  for (int phase = 1; phase < S; ++phase)
    if (first_small(K, S, R, phase) < first) first = first_small(K, S, R, phase);
  return first;
}

// One phase among the products of all, which stand one after the other.
template <int K, int S, int M, int p>
struct Phase : Minimal<M, taps_of(K, S, p)> {
  static constexpr int first_product() {
    int count = 0;
    for (int before = 0; before < p; ++before) count += M + taps_of(K, S, before) - 1;
    return count;
  }
  static constexpr int product(int index) { return first_product() + index; }
  static constexpr int place(int index) { return p + S * index; }  // of a tap, and in the window of the large image
};

// A filter of K taps and stride S, for tiles of M values of the small image: one direction of each transform.
template <int K, int S, int M>
struct Filtering {
  static constexpr int kKernel = K, kStride = S, kTile = M, kProducts = S * (M - 1) + K;

  // The tap that stands where `tap` does when each phase's are in the opposite order, as the transposed convolution
  // meets them.
  static constexpr int opposite(int tap) {
    const int phase = tap % S;
    return 2 * phase + S * (taps_of(K, S, phase) - 1) - tap;
  }

  template <typename Function, int... p>
  static IGAN_FAST_INLINE void each_phase(const Function& function, std::integer_sequence<int, p...>) {
    (function(Phase<K, S, M, p>{}), ...);
  }
  template <typename Function>
  static IGAN_FAST_INLINE void each_phase(const Function& function) {
    each_phase(function, std::make_integer_sequence<int, S>{});
  }

  struct SplitLarge {  // from place −padding of a tile that begins at 0
    static constexpr int kIn = kProducts, kOut = kProducts;
    IGAN_FAST_INLINE void operator()(const V (&d)[kIn], V (&v)[kOut]) const {
      each_phase([&](auto phase) IGAN_FAST_INLINE_LAMBDA {
        using P = decltype(phase);
        times(
            P::split, [&](int c) IGAN_FAST_INLINE_LAMBDA { return d[P::place(c)]; },
            [&](int r, V sum) IGAN_FAST_INLINE_LAMBDA { v[P::product(r)] = sum; });
      });
    }
  };
  struct JoinSmall {
    static constexpr int kIn = kProducts, kOut = M;
    IGAN_FAST_INLINE void operator()(const V (&m)[kIn], V (&y)[kOut]) const {
      each_phase([&](auto phase) IGAN_FAST_INLINE_LAMBDA {
        using P = decltype(phase);
        times(
            P::join, [&](int c) IGAN_FAST_INLINE_LAMBDA { return m[P::product(c)]; },
            [&](int r, V sum) IGAN_FAST_INLINE_LAMBDA { y[r] = P::first_product() ? y[r] + sum : sum; });
      });
    }
  };
  struct SpreadSmall {  // the transpose of JoinSmall
    static constexpr int kIn = M, kOut = kProducts;
    IGAN_FAST_INLINE void operator()(const V (&y)[kIn], V (&m)[kOut]) const {
      each_phase([&](auto phase) IGAN_FAST_INLINE_LAMBDA {
        using P = decltype(phase);
        times_transposed(
            P::join, [&](int c) IGAN_FAST_INLINE_LAMBDA { return y[c]; },
            [&](int r, V sum) IGAN_FAST_INLINE_LAMBDA { m[P::product(r)] = sum; });
      });
    }
  };
  struct SplitFilter {
    static constexpr int kIn = K, kOut = kProducts;
    IGAN_FAST_INLINE void operator()(const V (&w)[kIn], V (&u)[kOut]) const {
      each_phase([&](auto phase) IGAN_FAST_INLINE_LAMBDA {
        using P = decltype(phase);
        times(
            P::filter, [&](int c) IGAN_FAST_INLINE_LAMBDA { return w[P::place(c)]; },
            [&](int r, V sum) IGAN_FAST_INLINE_LAMBDA { u[P::product(r)] = sum; });
      });
    }
  };
  struct JoinFilter {  // the transpose of SplitFilter
    static constexpr int kIn = kProducts, kOut = K;
    IGAN_FAST_INLINE void operator()(const V (&u)[kIn], V (&w)[kOut]) const {
      each_phase([&](auto phase) IGAN_FAST_INLINE_LAMBDA {
        using P = decltype(phase);
        times_transposed(
            P::filter, [&](int c) IGAN_FAST_INLINE_LAMBDA { return u[P::product(c)]; },
            [&](int r, V sum) IGAN_FAST_INLINE_LAMBDA { w[P::place(r)] = sum; });
      });
    }
  };

  // The transposed convolution: with padding = S·d + R, place S·(u − d) + p − R of the large image is the sum of phase
  // p's taps times as many values of the small image, of which the last is u. So in a tile that begins at S·v, phase p
  // begins with u − d = v, or with v + 1 where p < R.
  template <int R>
  struct SplitSmall {
    static constexpr int kBegin = first_small(K, S, R);  // of the window, from value v + d of the small image
    static constexpr int kIn = M + (R > 0) - kBegin, kOut = kProducts;
    IGAN_FAST_INLINE void operator()(const V (&d)[kIn], V (&v)[kOut]) const {
      each_phase([&](auto phase) IGAN_FAST_INLINE_LAMBDA {
        using P = decltype(phase);
        constexpr int begin = first_small(K, S, R, P::place(0)) - kBegin;
        times(
            P::split, [&](int c) IGAN_FAST_INLINE_LAMBDA { return d[begin + c]; },
            [&](int r, V sum) IGAN_FAST_INLINE_LAMBDA { v[P::product(r)] = sum; });
      });
    }
  };
  template <int R>
  struct JoinLarge {
    static constexpr int kIn = kProducts, kOut = S * M;
    IGAN_FAST_INLINE void operator()(const V (&m)[kIn], V (&x)[kOut]) const {
      each_phase([&](auto phase) IGAN_FAST_INLINE_LAMBDA {
        using P = decltype(phase);
        constexpr int begin = (P::place(0) + S - R) % S;
        times(
            P::join, [&](int c) IGAN_FAST_INLINE_LAMBDA { return m[P::product(c)]; },
            [&](int r, V sum) IGAN_FAST_INLINE_LAMBDA { x[begin + S * r] = sum; });
      });
    }
  };
};

// A transform along rows, then along columns: store_at(row, column, transformed) of load_at(row, column).
template <typename Transform, typename Load, typename Store>
IGAN_FAST_INLINE void both_ways(const Load& load_at, const Store& store_at) {
  constexpr int kIn = Transform::kIn, kOut = Transform::kOut;
  const Transform transform{};
  V half[kOut][kIn];
  for (int r = 0; r < kIn; ++r) {
    V in[kIn], out[kOut];
    unroll<kIn>([&](int c) IGAN_FAST_INLINE_LAMBDA { in[c] = load_at(r, c); });
    transform(in, out);
    unroll<kOut>([&](int c) IGAN_FAST_INLINE_LAMBDA { half[c][r] = out[c]; });
  }
  for (int c = 0; c < kOut; ++c) {
    V out[kOut];
    transform(half[c], out);
    unroll<kOut>([&](int r) IGAN_FAST_INLINE_LAMBDA { store_at(r, c, out[r]); });
  }
}
