// Convolutions of sequences (N, C, T), and the gradients of their weights, by Winograd's minimal filtering
// (cpu/winograd/minimal.inl). The input gradient is a convolution too, with the channels exchanged and the taps in
// reverse order.
//
// A tile of 4 neighbouring outputs of a filter of T taps takes T + 3 multiplications instead of 4·T: F(4, T), for T =
// 3, 4 and 5. A longer filter is divided into parts, of which each begins 4 taps after the one before. So part p reads
// of the tile at i what the first part reads of the tile at i + 4·p, and all parts share one input transform:
//
//   taps                     3      4      5      7      9     11
//   multiplications, of     6/12   7/16   8/20  14/28  16/36  21/44
//
// With dilation d the filter reads every d-th value. The d sequences of every d-th value are convolved separately.
//
// Vectors hold the same value of neighbouring tiles. All sequences lie one after the other in columns, one column a
// tile, and each value of the transforms is a plane (channels, columns). The steps are:
//
//   convolution       values of 4 · tiles + 3 → planes, by the input transform → filter · planes, a matrix product per
//                     plane and part → output transform → 4 · tiles values
//   weight gradient   the same planes of the input, but (columns, channels); planes of the output's gradient, by the
//                     transpose of the output transform → their matrix products, over all columns → transpose of the
//                     filter transform → weights
//
// The order of every sum depends only on the shape, so the same input gives the same bits on any number of threads.

namespace winograd_1d {

#include "cpu/winograd/minimal.inl"
#include "cpu/winograd/products.inl"
#include "cpu/winograd/planes.inl"
#include "cpu/winograd_1d/columns.inl"
#include "cpu/winograd_1d/filter.inl"
#include "cpu/winograd_1d/convolve.inl"
#include "cpu/winograd_1d/weight_gradient.inl"

// Calls function(F) with the transforms of the parts of a filter.
template <typename Function>
auto with_filtering(int64_t kernel, const Function& function) {
  switch (parts_of(kernel).taps) {
    case 3: return function(Filtering<3>{});
    case 4: return function(Filtering<4>{});
    default: return function(Filtering<5>{});
  }
}

constexpr Winograd1dKernels kernels = {
    [](int64_t kernel, int64_t in_channels, int64_t out_channels) {
      return with_filtering(kernel,
                            [&](auto f) { return Filter<decltype(f)>(kernel, in_channels, out_channels).size(); });
    },
    [](int64_t kernel, int64_t in_channels, int64_t out_channels, const Weight1d& weight, float* filter,
       ParallelFor parallel_for) {
      with_filtering(kernel, [&](auto f) {
        transform_filter<decltype(f)>(kernel, in_channels, out_channels, weight, filter, parallel_for);
      });
    },
    [](const Conv1d& s, const float* in, const float* filter, const float* bias, float slope, float* out,
       ParallelFor parallel_for) {
      with_filtering(s.kernel, [&](auto f) { convolve<decltype(f)>(s, in, filter, bias, slope, out, parallel_for); });
    },
    [](const Conv1d& s, const float* in, const float* out, float* gradient, ParallelFor parallel_for) {
      with_filtering(s.kernel, [&](auto f) { weight_gradient<decltype(f)>(s, in, out, gradient, parallel_for); });
    }};

}  // namespace winograd_1d
