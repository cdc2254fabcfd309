// Convolutions of sequences (N, C, T), transposed ones, and the gradients of their weights, by Winograd's minimal
// filtering (cpu/winograd/minimal.inl).
//
// A tile of 4 neighbouring outputs of a filter of T taps takes T + 3 multiplications instead of 4·T: F(4, T), for T = 2
// to 5. A longer filter is divided into parts, of which each begins 4 taps after the one before. So part p reads
// of the tile at i what the first part reads of the tile at i + 4·p, and all parts share one input transform:
//
//   taps                    2     3      4      5      7      9     11
//   multiplications, of    5/8   6/12   7/16   8/20  14/28  16/36  21/44
//
// Interleaved sequences are convolved separately.
//
// With stride s, every s-th value is a channel of its own, and so is every s-th tap of the filter: with s times as many
// channels of the large sequences, the stride is 1. The transposed convolution is then a convolution too, from the
// small channels to these, with the taps in reverse order.
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
#include "cpu/winograd_1d/layer.inl"
#include "cpu/winograd_1d/columns.inl"
#include "cpu/winograd_1d/filter.inl"
#include "cpu/winograd_1d/convolve.inl"
#include "cpu/winograd_1d/weight_gradient.inl"

// Calls function(F{}, layer) with the transforms of the parts of a filter.
template <typename Function>
auto with_filtering(const Conv1d& s, bool transposed, const Function& function) {
  const Layer layer(s, transposed);
  switch (layer.parts.taps) {
    case 2: return function(Filtering<2>{}, layer);
    case 3: return function(Filtering<3>{}, layer);
    case 4: return function(Filtering<4>{}, layer);
    default: return function(Filtering<5>{}, layer);
  }
}

constexpr Winograd1dKernels kernels = {
    [](const Conv1d& s, bool transposed) {
      return with_filtering(s, transposed,
                            [&](auto f, const Layer& layer) { return s.groups * Filter<decltype(f)>(layer).size(); });
    },
    [](const Conv1d& s, const Weight1d& weight, bool transposed, float* filter, ParallelFor parallel_for) {
      with_filtering(s, transposed, [&](auto f, const Layer& layer) {
        for (int64_t group = 0; group < s.groups; ++group)
          transform_filter<decltype(f)>(layer, weight, group, filter, parallel_for);
      });
    },
    [](const Conv1d& s, bool transposed, const float* in, const float* filter, const float* bias, float slope,
       float* out, ParallelFor parallel_for) {
      with_filtering(s, transposed, [&](auto f, const Layer& layer) {
        for (int64_t group = 0; group < s.groups; ++group)
          convolve<decltype(f)>(layer, group, in, filter, bias, slope, out, parallel_for);
      });
    },
    [](const Conv1d& s, const float* large, const float* small, float* gradient, ParallelFor parallel_for) {
      with_filtering(s, false, [&](auto f, const Layer& layer) {
        for (int64_t group = 0; group < s.groups; ++group)
          weight_gradient<decltype(f)>(layer, group, large, small, gradient, parallel_for);
      });
    }};

}  // namespace winograd_1d
