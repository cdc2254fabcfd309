// The CPU kernels of convolutions from and to few channels as plain functions on pointers. They do not need torch, so
// tests can call them directly. igan_fast/ops/convolution/direct.py decides when they are used; kernels.inl explains
// them.

#pragma once

#include "cpu/isa.h"

namespace igan_fast::cpu {

constexpr int64_t kMaxKernelHeight = 16;

// A convolution from an image, which has few channels, to features, which have any number of them: position (y, x) of
// the features is Σ weight[i, j] · image[stride·y − padding + i, stride·x − padding + j], where the image is 0 outside.
// The transposed convolution goes from the features to the image. All sizes are at least 1, paddings at least 0, and
// the kernel's height is at most kMaxKernelHeight.
struct DirectShape {
  int64_t batch, image_height, image_width, image_channels, height, width, channels;
  int64_t kernel_height, kernel_width, stride_height, stride_width, padding_height, padding_width;
};

// Strides, in elements, of an image (batch, height, width, channels).
struct ImageStrides {
  int64_t image, row, column, channel;
};

// Strides, in elements, of weights (channels, image channels, kernel height, kernel width).
struct WeightStrides {
  int64_t channel, image_channel, row, column;
};

// Features (batch, height, width, channels), contiguous. With signs, of the same shape, they are the gradient of the
// output of a LeakyReLU whose input has these signs, and stand for the gradient of that input.
struct Features {
  const float* values;
  const float* signs;
  float slope;
};

// All float32.
struct DirectKernels {
  // features = LeakyReLU(image ∗ weight + bias). bias is (channels,) or null; slope 1 means no activation.
  void (*convolve)(const DirectShape&, const ImageStrides&, const float* image, const WeightStrides&,
                   const float* weight, const float* bias, float slope, float* features, ParallelFor);
  // image = LeakyReLU(features ∗ᵀ weight + bias), contiguous (batch, height, width, channels). bias is (image
  // channels,) or null.
  void (*convolve_transposed)(const DirectShape&, const Features&, const WeightStrides&, const float* weight,
                              const float* bias, float slope, float* image, ParallelFor);
  // The gradient of the weight, contiguous, and that of the bias (channels,), which is the sum of the features; null if
  // it is not needed.
  void (*weight_gradient)(const DirectShape&, const ImageStrides&, const float* image, const Features&, float* weight,
                          float* bias, ParallelFor);
};

const DirectKernels& direct_kernels(Isa isa);

}  // namespace igan_fast::cpu
