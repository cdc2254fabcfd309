// The running statistics of norm_act on CUDA devices.

#include "cuda/norm_act/affine.cuh"
#include "cuda/norm_act/partition.cuh"

namespace igan_fast::cuda {
namespace {

// running ← (1 − momentum)·running + momentum·factor·statistics, once for each group, in order.
__global__ void __launch_bounds__(kThreads)
    update(void* running, Dtype running_dtype, int64_t stride, const void* statistics, Dtype dtype, int64_t groups,
           int64_t channels, double factor, double momentum) {
  const int64_t c = block_x() * kThreads + threadIdx.x;
  if (c >= channels) return;
  double value = read(running, running_dtype, c * stride);
  for (int64_t g = 0; g < groups; ++g)
    value = (1 - momentum) * value + momentum * factor * read(statistics, dtype, g * channels + c);
  switch (running_dtype) {
    case Dtype::Half: static_cast<__half*>(running)[c * stride] = narrow<__half>(value); break;
    case Dtype::BFloat16: static_cast<__nv_bfloat16*>(running)[c * stride] = narrow<__nv_bfloat16>(value); break;
    case Dtype::Float: static_cast<float*>(running)[c * stride] = static_cast<float>(value); break;
    default: static_cast<double*>(running)[c * stride] = value;
  }
}

// Updates the running statistics as torch.nn.BatchNorm would in `groups` successive calls, one for each group.
void norm_act_update(Tensor running_mean, Tensor running_var, Tensor mean, Tensor var, std::optional<int64_t> count,
                     double momentum) {
  const int64_t groups = groups_of(mean, var), channels = mean.size(1);
  const Launch launch(mean);
  const double unbiased = unbiased_factor(count);
  const auto one = [&](Tensor& running, const Tensor& statistics, double factor, const char* what) {
    STD_TORCH_CHECK(running.dim() == 1 && running.numel() == channels, what, ": expected (", channels, ",)");
    IGAN_FAST_LAUNCH(launch, blocks_for(channels, kThreads), kThreads, update)(
        running.mutable_data_ptr(), dtype_of(running, what), running.stride(0), statistics.const_data_ptr(),
        dtype_of(statistics, "statistics"), groups, channels, factor, momentum);
  };
  one(running_mean, mean, 1, "running_mean");
  one(running_var, var, unbiased, "running_var");
  launch.check("norm_act_update");
}

}  // namespace
}  // namespace igan_fast::cuda

STABLE_TORCH_LIBRARY_IMPL(igan_fast, CUDA, m) {
  m.impl("norm_act_update", TORCH_BOX(&igan_fast::cuda::norm_act_update));
}
