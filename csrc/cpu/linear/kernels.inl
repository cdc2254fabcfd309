// Linear layers with few rows. Each weight is used once for each row, so the time is that of reading the weights from
// memory. A general matrix product would first copy them into another order, or leave threads without work.
//
// An output is the sum over one row of the weights, which is contiguous. Its lanes are summed up last, in a fixed
// order. So the same input gives the same bits on any number of threads.

namespace linear {

using V = Vec<float>;
constexpr int L = kLanes<float>;
constexpr int64_t kMinPerThread = int64_t{1} << 15;  // weights; another thread does not pay off for less work

// The outputs of long rows of weights that are computed together, so that x is read once for all of them. Their sums
// are in registers. Short rows are read one after the other: the processor then asks memory for them ahead of time.
template <int R>
constexpr int kOutputs = IGAN_FAST_ISA_LEVEL == 2 || R < 4 ? 4 : 2;
constexpr int64_t kLongRow = 4096;  // bytes: a page

// Outputs `first` … first + O − 1 of R rows.
template <typename T, int R, int O>
void multiply(const FewRows& call, const float* x, int64_t first) {
  const auto* weight = static_cast<const T*>(call.weight) + first * call.inputs;
  V sums[R][O] = {};
  const auto add = [&](const auto& load_at) IGAN_FAST_INLINE_LAMBDA {
    V factors[R];
    unroll<R>([&](int r) IGAN_FAST_INLINE_LAMBDA { factors[r] = load_at(x + r * call.inputs); });
    unroll<O>([&](int o) IGAN_FAST_INLINE_LAMBDA {
      const V w = load_at(weight + o * call.inputs);
      unroll<R>([&](int r) IGAN_FAST_INLINE_LAMBDA { sums[r][o] += factors[r] * w; });
    });
  };
  const int64_t whole = call.inputs / L * L, rest = call.inputs - whole;
  for (int64_t i = 0; i < whole; i += L) add([&](const auto* row) IGAN_FAST_INLINE_LAMBDA { return load(row + i); });
  if (rest > 0) add([&](const auto* row) IGAN_FAST_INLINE_LAMBDA { return load_partial(row + whole, rest); });
  const auto* bias = static_cast<const T*>(call.bias);
  auto* y = static_cast<T*>(call.y);
  unroll<R>([&](int r) IGAN_FAST_INLINE_LAMBDA {
    unroll<O>([&](int o) IGAN_FAST_INLINE_LAMBDA {
      const float sum = sum_halves(sums[r][o]) + (bias ? to_float(bias[first + o]) : 0);
      y[r * call.outputs + first + o] = from_float<T>(sum);
    });
  });
}

// x as float. Half types are converted once, and not again for each group of outputs.
template <typename T>
const float* floats_of(const FewRows& call, const Scratch& converted) {
  if constexpr (std::is_same_v<T, float>) return static_cast<const float*>(call.x);
  const auto* x = static_cast<const T*>(call.x);
  const int64_t count = call.rows * call.inputs, whole = count / L * L;
  for (int64_t i = 0; i < whole; i += L) store<false>(converted.data() + i, load(x + i));
  for (int64_t i = whole; i < count; ++i) converted.data()[i] = to_float(x[i]);
  return converted.data();
}

template <typename T, int R, int O>
void multiply_groups(const FewRows& call, const float* x, ParallelFor parallel_for) {
  const int64_t grain = std::max<int64_t>(kMinPerThread / (O * std::max<int64_t>(call.inputs, 1)), 1);
  parallel(parallel_for, (call.outputs + O - 1) / O, grain, [&](int64_t begin, int64_t end) {
    for (int64_t group = begin; group < end; ++group) {
      const int64_t first = group * O;
      if (first + O <= call.outputs)
        multiply<T, R, O>(call, x, first);
      else
        for (int64_t output = first; output < call.outputs; ++output) multiply<T, R, 1>(call, x, output);
    }
  });
}

template <typename T, int R>
void multiply_rows(const FewRows& call, ParallelFor parallel_for) {
  const Scratch converted(std::is_same_v<T, float> ? 0 : R * call.inputs);
  const float* x = floats_of<T>(call, converted);
  const bool is_long = call.inputs * static_cast<int64_t>(sizeof(T)) >= kLongRow;
  is_long ? multiply_groups<T, R, kOutputs<R>>(call, x, parallel_for) : multiply_groups<T, R, 1>(call, x, parallel_for);
}

inline void multiply_few_rows(const FewRows& call, ParallelFor parallel_for) {
  with_type(call.dtype, [&](auto type) {
    using T = decltype(type);
    if constexpr (!std::is_same_v<T, double>) switch (call.rows) {
        case 1: return multiply_rows<T, 1>(call, parallel_for);
        case 2: return multiply_rows<T, 2>(call, parallel_for);
        case 3: return multiply_rows<T, 3>(call, parallel_for);
        case 4: return multiply_rows<T, 4>(call, parallel_for);
      }
  });
}

}  // namespace linear
