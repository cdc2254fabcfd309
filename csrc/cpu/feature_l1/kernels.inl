// Σ|fake − real| over pairs of tensors and, for the backward, the sign of each difference in 2 bits.
//
// A pair is walked in its iteration order, in blocks of kBlock elements whatever the number of threads. 64 elements own
// 16 bytes of codes: a bit per element where the difference is positive, then a bit where it is negative.

namespace {

constexpr int64_t kBlock = 16384;
constexpr int64_t kGrain = 2;  // blocks worth waking a thread for

inline int64_t blocks_of(int64_t numel) { return (numel + kBlock - 1) / kBlock; }

// Runs function(i, first, count) for each block of each item, in parallel; block b of all is (i, first, count).
template <typename Item, typename Function>
inline void for_each_block(const Item* items, int64_t count, ParallelFor run, const Function& function) {
  int64_t total = 0;
  for (int64_t i = 0; i < count; ++i) total += blocks_of(items[i].numel);
  parallel(run, total, kGrain, [&](int64_t begin, int64_t end) {
    int64_t i = 0, first_block = 0;  // of item i
    for (int64_t b = begin; b < end; ++b) {
      while (b >= first_block + blocks_of(items[i].numel)) first_block += blocks_of(items[i++].numel);
      const int64_t first = (b - first_block) * kBlock;
      const int64_t left = items[i].numel - first;
      function(b, i, first, left < kBlock ? left : kBlock);
    }
  });
}

struct Signs {
  uint64_t positive = 0, negative = 0;
};

template <bool kSave, typename A>
IGAN_FAST_INLINE void accumulate(Vec<A> difference, Vec<A>& sum, Signs& signs, int shift) {
  sum += magnitude(difference);
  if constexpr (kSave) {
    signs.positive |= positive_lanes(difference) << shift;
    signs.negative |= positive_lanes(-difference) << shift;
  }
}

IGAN_FAST_INLINE void save(const Signs& signs, uint8_t* codes) {
  std::memcpy(codes, &signs.positive, 8);
  std::memcpy(codes + 8, &signs.negative, 8);
}

template <bool kSave, typename T>
double sum_block(const T* fake, const T* real, int64_t count, uint8_t* codes) {
  using A = typename AccOf<T>::type;
  constexpr int kSteps = kCodeGroup / kLanes<A>;
  Vec<A> sums[4] = {};
  int64_t i = 0;
  for (; i + kCodeGroup <= count; i += kCodeGroup) {
    Signs signs;
    unroll<kSteps>([&](int k) IGAN_FAST_INLINE_LAMBDA {
      const int64_t at = i + k * kLanes<A>;
      accumulate<kSave, A>(load(fake + at) - load(real + at), sums[k % 4], signs, k * kLanes<A>);
    });
    if constexpr (kSave) save(signs, codes + i / kCodeGroup * kCodeBytes);
  }
  if (i < count) {
    Signs signs;
    for (int k = 0; i + k * kLanes<A> < count; ++k) {
      const int64_t at = i + k * kLanes<A>;
      const int64_t lanes = count - at < kLanes<A> ? count - at : kLanes<A>;
      accumulate<kSave, A>(load_partial(fake + at, lanes) - load_partial(real + at, lanes), sums[k % 4], signs,
                           k * kLanes<A>);
    }
    if constexpr (kSave) save(signs, codes + i / kCodeGroup * kCodeBytes);
  }
  return sum_lanes<A>(sums[0]) + sum_lanes<A>(sums[1]) + sum_lanes<A>(sums[2]) + sum_lanes<A>(sums[3]);
}

template <typename T>
double sum_block(const T* fake, const T* real, int64_t count, uint8_t* codes) {
  return codes ? sum_block<true>(fake, real, count, codes) : sum_block<false>(fake, real, count, codes);
}

// Elements [first, first + count) of one side in the iteration order, as A.
template <typename T, typename A>
void gather(const Strided& side, const T* data, const Pair& pair, int64_t first, int64_t count, A* out) {
  if (side.linear || pair.ndim == 0) {
    for (int64_t k = 0; k < count; ++k) out[k] = static_cast<A>(to_float(data[first + k]));
    return;
  }
  int64_t index[kMaxDims];
  int64_t rest = first;
  for (int d = pair.ndim - 1; d >= 0; --d) {
    index[d] = rest % pair.sizes[d];
    rest /= pair.sizes[d];
    data += index[d] * side.strides[d];
  }
  const int inner = pair.ndim - 1;
  const int64_t stride = side.strides[inner];
  while (count > 0) {
    const int64_t left = pair.sizes[inner] - index[inner];
    const int64_t run = left < count ? left : count;
    for (int64_t k = 0; k < run; ++k) out[k] = static_cast<A>(to_float(data[k * stride]));
    out += run;
    count -= run;
    data += run * stride;
    index[inner] += run;
    for (int d = inner; d > 0 && index[d] == pair.sizes[d]; --d) {
      data += side.strides[d - 1] - index[d] * side.strides[d];
      index[d] = 0;
      ++index[d - 1];
    }
  }
}

template <typename A>
void gather(const Strided& side, const Pair& pair, int64_t first, int64_t count, A* out) {
  with_type(side.dtype,
            [&](auto type) { gather(side, static_cast<const decltype(type)*>(side.data), pair, first, count, out); });
}

// Where strides or dtypes differ: through two buffers that stay in the first cache.
template <typename A>
double sum_gathered(const Pair& pair, int64_t first, int64_t count, uint8_t* codes) {
  constexpr int64_t kChunk = 1024;
  A fake[kChunk], real[kChunk];
  double sum = 0;
  for (int64_t done = 0; done < count; done += kChunk) {
    const int64_t chunk = count - done < kChunk ? count - done : kChunk;
    gather(pair.fake, pair, first + done, chunk, fake);
    gather(pair.real, pair, first + done, chunk, real);
    sum += sum_block(fake, real, chunk, codes ? codes + done / kCodeGroup * kCodeBytes : nullptr);
  }
  return sum;
}

void feature_l1(const Pair* pairs, int64_t count, double* sums, ParallelFor run) {
  int64_t total = 0;
  for (int64_t i = 0; i < count; ++i) total += blocks_of(pairs[i].numel);
  const std::unique_ptr<double[]> partial(new double[static_cast<size_t>(total)]);
  for_each_block(pairs, count, run, [&](int64_t block, int64_t i, int64_t first, int64_t size) {
    const Pair& pair = pairs[i];
    uint8_t* codes = pair.codes ? pair.codes + first / kCodeGroup * kCodeBytes : nullptr;
    const bool wide = pair.fake.dtype == Dtype::Double || pair.real.dtype == Dtype::Double;
    if (pair.fake.linear && pair.real.linear && pair.fake.dtype == pair.real.dtype) {
      with_type(pair.fake.dtype, [&](auto type) {
        using T = decltype(type);
        partial[block] = sum_block(static_cast<const T*>(pair.fake.data) + first,
                                   static_cast<const T*>(pair.real.data) + first, size, codes);
      });
    } else {
      partial[block] =
          wide ? sum_gathered<double>(pair, first, size, codes) : sum_gathered<float>(pair, first, size, codes);
    }
  });
  int64_t block = 0;
  for (int64_t i = 0; i < count; ++i) {
    double sum = 0;
    for (const int64_t end = block + blocks_of(pairs[i].numel); block < end; ++block) sum += partial[block];
    sums[i] = sum;
  }
}

template <bool kStream, typename U>
void fill_signed(U* out, int64_t count, const uint8_t* codes, U plus, U minus, U zero) {
  int64_t i = 0;
  if (zero == 0) {  // 0 as bits: also what select_lanes leaves
    for (; i + kCodeGroup <= count; i += kCodeGroup, codes += kCodeBytes) {
      Signs signs;
      std::memcpy(&signs, codes, kCodeBytes);
      unroll<kCodeGroup / kLanes<U>>([&](int k) IGAN_FAST_INLINE_LAMBDA {
        const Vec<U> v =
            select_lanes<U>(signs.positive >> (k * kLanes<U>), signs.negative >> (k * kLanes<U>), plus, minus);
        if constexpr (kStream)
          stream_bits(out + i + k * kLanes<U>, v);
        else
          std::memcpy(out + i + k * kLanes<U>, &v, sizeof(v));
      });
    }
  }
  for (; i < count; i += kCodeGroup, codes += kCodeBytes) {
    Signs signs;
    std::memcpy(&signs, codes, kCodeBytes);
    for (int64_t k = 0; k < kCodeGroup && i + k < count; ++k)
      out[i + k] = signs.positive >> k & 1 ? plus : signs.negative >> k & 1 ? minus : zero;
  }
}

void feature_l1_backward(const SignedFill* fills, int64_t count, ParallelFor run) {
  int64_t bytes = 0;
  for (int64_t i = 0; i < count; ++i) bytes += fills[i].numel * size_of(fills[i].dtype);
  for_each_block(fills, count, run, [&](int64_t, int64_t i, int64_t first, int64_t size) {
    const SignedFill& fill = fills[i];
    const uint8_t* codes = fill.codes + first / kCodeGroup * kCodeBytes;
    const bool stream = past_the_caches(bytes, fill.out);  // together: they are read again one by one, the last first
    const auto bits = [&](auto plus, auto minus, auto zero) {
      using U = decltype(plus);
      U* out = static_cast<U*>(fill.out) + first;
      if (static_cast<U>(zero << 1) == 0) zero = 0;  // −0
      stream ? fill_signed<true>(out, size, codes, plus, minus, zero)
             : fill_signed<false>(out, size, codes, plus, minus, zero);
    };
    const float scale = static_cast<float>(fill.scale);
    switch (fill.dtype) {
      case Dtype::Half:
        bits(from_float<Half>(scale).bits, from_float<Half>(-scale).bits, from_float<Half>(scale * 0).bits);
        break;
      case Dtype::BFloat16:
        bits(from_float<BFloat16>(scale).bits, from_float<BFloat16>(-scale).bits, from_float<BFloat16>(scale * 0).bits);
        break;
      case Dtype::Float:
        bits(bit_cast<uint32_t>(scale), bit_cast<uint32_t>(-scale), bit_cast<uint32_t>(scale * 0));
        break;
      case Dtype::Double:
        bits(bit_cast<uint64_t>(fill.scale), bit_cast<uint64_t>(-fill.scale), bit_cast<uint64_t>(fill.scale * 0));
        break;
    }
    if (stream) end_streams();
  });
}

}  // namespace
