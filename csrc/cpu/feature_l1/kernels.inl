// Σ|fake − real| over pairs of tensors and, for the backward, the sign mask of each difference (ops/feature_l1/pair.h).
//
// A pair is read in its iteration order, in blocks of kBlock elements. The blocks do not depend on the number of
// threads, so the same input gives the same bits on any number of threads.

namespace {

constexpr int64_t kBlock = 16384;
constexpr int64_t kGrain = 2;  // blocks; another thread does not pay off for less work

inline int64_t blocks_of(int64_t numel) { return (numel + kBlock - 1) / kBlock; }

// Calls function(block, i, first, count) for each block of each item, in parallel. Blocks are numbered over all items;
// a block is the elements [first, first + count) of item i.
template <typename Item, typename Function>
inline void for_each_block(const Item* items, int64_t count, ParallelFor parallel_for, const Function& function) {
  int64_t total = 0;
  for (int64_t i = 0; i < count; ++i) total += blocks_of(items[i].numel);
  parallel(parallel_for, total, kGrain, [&](int64_t begin, int64_t end) {
    int64_t i = 0, first_block = 0;  // of item i
    for (int64_t b = begin; b < end; ++b) {
      while (b >= first_block + blocks_of(items[i].numel)) first_block += blocks_of(items[i++].numel);
      const int64_t first = (b - first_block) * kBlock;
      const int64_t left = items[i].numel - first;
      function(b, i, first, left < kBlock ? left : kBlock);
    }
  });
}

// The sign mask of 64 elements, as bits.
struct SignMask {
  uint64_t positive = 0, negative = 0;
};

template <bool kSave, typename A>
IGAN_FAST_INLINE void accumulate(Vec<A> difference, Vec<A>& sum, SignMask& mask, int shift) {
  sum += magnitude(difference);
  if constexpr (kSave) {
    mask.positive |= positive_lanes(difference) << shift;
    mask.negative |= positive_lanes(-difference) << shift;
  }
}

IGAN_FAST_INLINE void save(const SignMask& mask, uint8_t* sign_mask) {
  std::memcpy(sign_mask, &mask.positive, 8);
  std::memcpy(sign_mask + 8, &mask.negative, 8);
}

template <bool kSave, typename T>
double sum_block(const T* fake, const T* real, int64_t count, uint8_t* sign_mask) {
  using A = typename AccOf<T>::type;
  constexpr int kSteps = kMaskGroup / kLanes<A>;
  Vec<A> sums[4] = {};
  int64_t i = 0;
  for (; i + kMaskGroup <= count; i += kMaskGroup) {
    SignMask mask;
    unroll<kSteps>([&](int k) IGAN_FAST_INLINE_LAMBDA {
      const int64_t at = i + k * kLanes<A>;
      accumulate<kSave, A>(load(fake + at) - load(real + at), sums[k % 4], mask, k * kLanes<A>);
    });
    if constexpr (kSave) save(mask, sign_mask + i / kMaskGroup * kMaskGroupBytes);
  }
  if (i < count) {
    SignMask mask;
    for (int k = 0; i + k * kLanes<A> < count; ++k) {
      const int64_t at = i + k * kLanes<A>;
      const int64_t lanes = count - at < kLanes<A> ? count - at : kLanes<A>;
      accumulate<kSave, A>(load_partial(fake + at, lanes) - load_partial(real + at, lanes), sums[k % 4], mask,
                           k * kLanes<A>);
    }
    if constexpr (kSave) save(mask, sign_mask + i / kMaskGroup * kMaskGroupBytes);
  }
  return sum_lanes(sums[0]) + sum_lanes(sums[1]) + sum_lanes(sums[2]) + sum_lanes(sums[3]);
}

template <typename T>
double sum_block(const T* fake, const T* real, int64_t count, uint8_t* sign_mask) {
  return sign_mask ? sum_block<true>(fake, real, count, sign_mask) : sum_block<false>(fake, real, count, sign_mask);
}

// Copies elements [first, first + count) of one tensor, in the iteration order, as A.
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
    const int64_t length = left < count ? left : count;
    for (int64_t k = 0; k < length; ++k) out[k] = static_cast<A>(to_float(data[k * stride]));
    out += length;
    count -= length;
    data += length * stride;
    index[inner] += length;
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

// The same where strides or dtypes differ. The elements are copied to two buffers, which fit into the level-1 cache.
template <typename A>
double sum_gathered(const Pair& pair, int64_t first, int64_t count, uint8_t* sign_mask) {
  constexpr int64_t kChunk = 1024;
  A fake[kChunk], real[kChunk];
  double sum = 0;
  for (int64_t done = 0; done < count; done += kChunk) {
    const int64_t chunk = count - done < kChunk ? count - done : kChunk;
    gather(pair.fake, pair, first + done, chunk, fake);
    gather(pair.real, pair, first + done, chunk, real);
    sum += sum_block(fake, real, chunk, sign_mask ? sign_mask + done / kMaskGroup * kMaskGroupBytes : nullptr);
  }
  return sum;
}

void forward(const Pair* pairs, int64_t count, double* sums, ParallelFor parallel_for) {
  int64_t total = 0;
  for (int64_t i = 0; i < count; ++i) total += blocks_of(pairs[i].numel);
  const std::unique_ptr<double[]> partial(new double[static_cast<size_t>(total)]);
  for_each_block(pairs, count, parallel_for, [&](int64_t block, int64_t i, int64_t first, int64_t size) {
    const Pair& pair = pairs[i];
    uint8_t* sign_mask = pair.sign_mask ? pair.sign_mask + first / kMaskGroup * kMaskGroupBytes : nullptr;
    const bool has_double = pair.fake.dtype == Dtype::Double || pair.real.dtype == Dtype::Double;
    if (pair.fake.linear && pair.real.linear && pair.fake.dtype == pair.real.dtype) {
      with_type(pair.fake.dtype, [&](auto type) {
        using T = decltype(type);
        partial[block] = sum_block(static_cast<const T*>(pair.fake.data) + first,
                                   static_cast<const T*>(pair.real.data) + first, size, sign_mask);
      });
    } else {
      partial[block] = has_double ? sum_gathered<double>(pair, first, size, sign_mask)
                                  : sum_gathered<float>(pair, first, size, sign_mask);
    }
  });
  int64_t block = 0;
  for (int64_t i = 0; i < count; ++i) {
    double sum = 0;
    for (const int64_t end = block + blocks_of(pairs[i].numel); block < end; ++block) sum += partial[block];
    sums[i] = sum;
  }
}

// plus, minus and zero are the bits of scale, −scale and scale · 0, which is NaN where scale is not finite.
template <bool kStream, typename U>
void fill_signed(U* out, int64_t count, const uint8_t* sign_mask, U plus, U minus, U zero) {
  int64_t i = 0;
  if (zero == 0) {  // select_lanes writes 0 bits
    for (; i + kMaskGroup <= count; i += kMaskGroup, sign_mask += kMaskGroupBytes) {
      SignMask mask;
      std::memcpy(&mask, sign_mask, kMaskGroupBytes);
      unroll<kMaskGroup / kLanes<U>>([&](int k) IGAN_FAST_INLINE_LAMBDA {
        const Vec<U> v =
            select_lanes<U>(mask.positive >> (k * kLanes<U>), mask.negative >> (k * kLanes<U>), plus, minus);
        if constexpr (kStream)
          stream_bits(out + i + k * kLanes<U>, v);
        else
          std::memcpy(out + i + k * kLanes<U>, &v, sizeof(v));
      });
    }
  }
  for (; i < count; i += kMaskGroup, sign_mask += kMaskGroupBytes) {
    SignMask mask;
    std::memcpy(&mask, sign_mask, kMaskGroupBytes);
    for (int64_t k = 0; k < kMaskGroup && i + k < count; ++k)
      out[i + k] = mask.positive >> k & 1 ? plus : mask.negative >> k & 1 ? minus : zero;
  }
}

void backward(const SignedFill* fills, int64_t count, ParallelFor parallel_for) {
  int64_t total_bytes = 0;
  for (int64_t i = 0; i < count; ++i) total_bytes += fills[i].numel * size_of(fills[i].dtype);
  for_each_block(fills, count, parallel_for, [&](int64_t, int64_t i, int64_t first, int64_t size) {
    const SignedFill& fill = fills[i];
    const uint8_t* sign_mask = fill.sign_mask + first / kMaskGroup * kMaskGroupBytes;
    // The sizes of all outputs count together, because autograd reads the first one after the last one is written.
    const bool stream = bypasses_caches(total_bytes, fill.out);
    const auto bits = [&](auto plus, auto minus, auto zero) {
      using U = decltype(plus);
      U* out = static_cast<U*>(fill.out) + first;
      if (static_cast<U>(zero << 1) == 0) zero = 0;  // −0 becomes 0
      stream ? fill_signed<true>(out, size, sign_mask, plus, minus, zero)
             : fill_signed<false>(out, size, sign_mask, plus, minus, zero);
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

constexpr FeatureL1Kernels feature_l1_table = {&forward, &backward};

}  // namespace
