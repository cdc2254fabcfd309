// Convolutions from an image of few channels to features, and back, by direct sums. Image and features are float,
// (N, H, W, C).
//
// In a row of the image, the values that a position's window covers are one contiguous run of kernel width × image
// channels values: 15 for the 5 × 5 kernel and three colours. The next position's run begins stride × image channels
// values later. So no step copies windows (im2col). Each computation is a matrix product whose sums are in registers:
//
//   convolution       rows: positions; columns: the features' channels; summed over the values of the window
//   transposed        rows: positions; columns: the values of the window; summed over the features' channels. The
//                     windows overlap, so each result is added to its place in the image
//   weight gradient   rows: the values of the window; columns: the features' channels; summed over all positions
//
// The order of every sum depends only on the shape, so the same input gives the same bits on any number of threads.

namespace direct {

using V = Vec<float>;
constexpr int L = kLanes<float>;

#include "cpu/direct/rows.inl"
#include "cpu/direct/convolve.inl"
#include "cpu/direct/transposed.inl"
#include "cpu/direct/weight_gradient.inl"

constexpr DirectKernels kernels = {&convolve, &convolve_transposed, &weight_gradient};

}  // namespace direct
