// feature_l1's CPU kernels as plain functions on pointers. They do not need torch, so tests can call them directly.

#pragma once

#include "cpu/isa.h"
#include "ops/feature_l1/pair.h"

namespace igan_fast::cpu {

struct FeatureL1Kernels {
  // sums[i] = Σ|fakeᵢ − realᵢ|; writes the sign masks of pairs whose sign_mask is not null.
  void (*forward)(const Pair* pairs, int64_t count, double* sums, ParallelFor);
  // outᵢ[k] = scaleᵢ · signᵢ[k]
  void (*backward)(const SignedFill* fills, int64_t count, ParallelFor);
};

const FeatureL1Kernels& feature_l1_kernels(Isa isa);

}  // namespace igan_fast::cpu
