// Rounds vectors of floats to 16 bits and stores them: one by one, in pairs,
// and past the caches.

template <typename T>
void narrowed(const float *from, T *singles, T *pairs, T *streamed) {
  constexpr int L = kLanes<float>;
  store<false>(singles, load(from));
  store<false>(singles + L, load(from + L));
  store_pair<false>(pairs, load(from), load(from + L));
  store_pair<true>(streamed, load(from), load(from + L));
  end_streams();
}

// The same values as floats again.
template <typename T> void widened(const T *from, float *to) {
  store<false>(to, load(from));
}

constexpr struct {
  int lanes;
  void (*half)(const float *, Half *, Half *, Half *);
  void (*bfloat16)(const float *, BFloat16 *, BFloat16 *, BFloat16 *);
  void (*wide_half)(const Half *, float *);
  void (*wide_bfloat16)(const BFloat16 *, float *);
} vector_table = {kLanes<float>, &narrowed<Half>, &narrowed<BFloat16>,
                  &widened<Half>, &widened<BFloat16>};
