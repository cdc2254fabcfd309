// The transforms between feature maps or filters and their products, for any filter size and stride.

// A filter of K taps and stride S is S filters of stride 1. Phase p has the taps p, p + S, p + 2S …, and they touch
// only every S-th value of the large feature map. M values of the small one are thus the sum of S minimal filterings
// F(M, T), each of T = taps_of(K, S, p) taps: S·(M − 1) + K multiplications in all, instead of M·K.
constexpr int taps_of(int K, int S, int phase) { return (K - phase + S - 1) / S; }

// The first value of the small feature map that a phase of the transposed convolution reads, relative to the tile (see
// TransposedInputTransform). The second function returns the minimum over all phases.
constexpr int first_small(int K, int S, int R, int phase) { return (phase < R) - taps_of(K, S, phase) + 1; }
constexpr int first_small(int K, int S, int R) {
  int first = first_small(K, S, R, 0);
  for (int phase = 1; phase < S; ++phase)
    if (first_small(K, S, R, phase) < first) first = first_small(K, S, R, phase);
  return first;
}

// One phase. The products of all phases are numbered one after the other.
template <int K, int S, int M, int p>
struct Phase : Minimal<M, taps_of(K, S, p)> {
  static constexpr int first_product() {
    int count = 0;
    for (int before = 0; before < p; ++before) count += M + taps_of(K, S, before) - 1;
    return count;
  }
  static constexpr int product(int index) { return first_product() + index; }
  // The position of the phase's tap `index` in the filter, and of its value `index` in a window of the large map.
  static constexpr int position(int index) { return p + S * index; }
};

// The transforms of a filter of K taps and stride S in one dimension, for tiles of M values of the small feature map.
// Each maps kIn values to kOut.
template <int K, int S, int M>
struct Filtering {
  static constexpr int kKernel = K, kStride = S, kTile = M, kProducts = S * (M - 1) + K;

  // The tap that replaces `tap` if the taps of each phase are in reverse order. The transposed convolution needs that
  // order.
  static constexpr int reversed(int tap) {
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

  // The convolution's input: a window of the large feature map. The window of the first tile begins at −padding.
  struct InputTransform {
    static constexpr int kIn = kProducts, kOut = kProducts;
    IGAN_FAST_INLINE void operator()(const V (&d)[kIn], V (&v)[kOut]) const {
      each_phase([&](auto phase) IGAN_FAST_INLINE_LAMBDA {
        using P = decltype(phase);
        times(
            P::input, [&](int c) IGAN_FAST_INLINE_LAMBDA { return d[P::position(c)]; },
            [&](int r, V sum) IGAN_FAST_INLINE_LAMBDA { v[P::product(r)] = sum; });
      });
    }
  };
  // The convolution's output: a tile of the small feature map.
  struct OutputTransform {
    static constexpr int kIn = kProducts, kOut = M;
    IGAN_FAST_INLINE void operator()(const V (&m)[kIn], V (&y)[kOut]) const {
      each_phase([&](auto phase) IGAN_FAST_INLINE_LAMBDA {
        using P = decltype(phase);
        times(
            P::output, [&](int c) IGAN_FAST_INLINE_LAMBDA { return m[P::product(c)]; },
            [&](int r, V sum) IGAN_FAST_INLINE_LAMBDA { y[r] = P::first_product() ? y[r] + sum : sum; });
      });
    }
  };
  // The transpose of OutputTransform: from the gradient of a tile of the small feature map.
  struct OutputGradientTransform {
    static constexpr int kIn = M, kOut = kProducts;
    IGAN_FAST_INLINE void operator()(const V (&y)[kIn], V (&m)[kOut]) const {
      each_phase([&](auto phase) IGAN_FAST_INLINE_LAMBDA {
        using P = decltype(phase);
        times_transposed(
            P::output, [&](int c) IGAN_FAST_INLINE_LAMBDA { return y[c]; },
            [&](int r, V sum) IGAN_FAST_INLINE_LAMBDA { m[P::product(r)] = sum; });
      });
    }
  };
  struct FilterTransform {
    static constexpr int kIn = K, kOut = kProducts;
    IGAN_FAST_INLINE void operator()(const V (&w)[kIn], V (&u)[kOut]) const {
      each_phase([&](auto phase) IGAN_FAST_INLINE_LAMBDA {
        using P = decltype(phase);
        times(
            P::filter, [&](int c) IGAN_FAST_INLINE_LAMBDA { return w[P::position(c)]; },
            [&](int r, V sum) IGAN_FAST_INLINE_LAMBDA { u[P::product(r)] = sum; });
      });
    }
  };
  // The transpose of FilterTransform: to the gradient of the filter.
  struct FilterGradientTransform {
    static constexpr int kIn = kProducts, kOut = K;
    IGAN_FAST_INLINE void operator()(const V (&u)[kIn], V (&w)[kOut]) const {
      each_phase([&](auto phase) IGAN_FAST_INLINE_LAMBDA {
        using P = decltype(phase);
        times_transposed(
            P::filter, [&](int c) IGAN_FAST_INLINE_LAMBDA { return u[P::product(c)]; },
            [&](int r, V sum) IGAN_FAST_INLINE_LAMBDA { w[P::position(r)] = sum; });
      });
    }
  };

  // The transposed convolution reads the small feature map and writes S·M values of the large one. Let padding be
  // S·d + R with R < S. Value S·(u − d) + p − R of the large feature map is then the sum of phase p's taps times the
  // same number of values of the small one; value u is the last of these. Let a tile begin at S·v. Phase p
  // then begins with u − d = v if p ≥ R, and with u − d = v + 1 if p < R.
  template <int R>
  struct TransposedInputTransform {
    static constexpr int kBegin = first_small(K, S, R);  // where the window begins, counted from value v + d
    static constexpr int kIn = M + (R > 0) - kBegin, kOut = kProducts;
    IGAN_FAST_INLINE void operator()(const V (&d)[kIn], V (&v)[kOut]) const {
      each_phase([&](auto phase) IGAN_FAST_INLINE_LAMBDA {
        using P = decltype(phase);
        constexpr int begin = first_small(K, S, R, P::position(0)) - kBegin;
        times(
            P::input, [&](int c) IGAN_FAST_INLINE_LAMBDA { return d[begin + c]; },
            [&](int r, V sum) IGAN_FAST_INLINE_LAMBDA { v[P::product(r)] = sum; });
      });
    }
  };
  template <int R>
  struct TransposedOutputTransform {
    static constexpr int kIn = kProducts, kOut = S * M;
    IGAN_FAST_INLINE void operator()(const V (&m)[kIn], V (&x)[kOut]) const {
      each_phase([&](auto phase) IGAN_FAST_INLINE_LAMBDA {
        using P = decltype(phase);
        constexpr int begin = (P::position(0) + S - R) % S;
        times(
            P::output, [&](int c) IGAN_FAST_INLINE_LAMBDA { return m[P::product(c)]; },
            [&](int r, V sum) IGAN_FAST_INLINE_LAMBDA { x[begin + S * r] = sum; });
      });
    }
  };
};

// A transform in two dimensions, along rows and then along columns. It reads load_at(row, column) and calls
// store_at(row, column, transformed).
template <typename Transform, typename Load, typename Store>
IGAN_FAST_INLINE void transform_2d(const Load& load_at, const Store& store_at) {
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
