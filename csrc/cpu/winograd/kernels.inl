// Convolution, transposed convolution and weight gradient by Winograd's minimal filtering, on feature maps
// (N, H, W, C) of float, bfloat16 or half. Transforms and products are computed in float. minimal.inl has a tile worked
// out by hand.
//
// In two dimensions a tile of M² outputs of a K × K filter of stride S takes N² multiplications, N = S·(M − 1) + K,
// instead of (M·K)²:
//
//   filter     stride     tile M = 2     tile M = 4
//   5 × 5         2        49 of 100     121 of 400
//   4 × 4         2        36 of  64     100 of 256
//   3 × 3         2        25 of  36      81 of 144
//   3 × 3         1        16 of  36      36 of 144
//
// Each of the N² products is a matrix product over all tiles and channels, (tiles, channels in) · (channels in,
// channels out). A plane holds the matrices of one of the N² products. The steps are:
//
//   convolution       windows of the large feature map → input transform → times the filter → output transform →
//                     tiles of the small one
//   transposed        windows of the small feature map → input transform → times the filter → output transform →
//                     tiles of the large one
//   weight gradient   windows of the large feature map → input transform, times tiles of the small one's gradient →
//                     transpose of the output transform; summed over tiles → transpose of the filter transform →
//                     weights
//
// The tiles are divided into blocks whose planes fit into the caches. The order of every sum depends only on the shape,
// so the same input gives the same bits on any number of threads.

namespace winograd {

#include "cpu/winograd/minimal.inl"
#include "cpu/winograd/transforms.inl"
#include "cpu/winograd/products.inl"
#include "cpu/winograd/planes.inl"
#include "cpu/winograd/tiles.inl"
#include "cpu/winograd/filter.inl"
#include "cpu/winograd/convolve.inl"
#include "cpu/winograd/weight_gradient.inl"

template <int K, int S, int M>
constexpr WinogradKernels kernels = {K,
                                     S,
                                     M,
                                     &filter_size<Filtering<K, S, M>>,
                                     &transform_filter<Filtering<K, S, M>>,
                                     &convolve<Forward<Filtering<K, S, M>>>,
                                     &convolve_transposed<Filtering<K, S, M>>,
                                     &weight_gradient<Filtering<K, S, M>>};

constexpr WinogradTable table = {kernels<5, 2, 2>, kernels<5, 2, 4>, kernels<4, 2, 2>, kernels<4, 2, 4>,
                                 kernels<3, 1, 2>, kernels<3, 1, 4>, kernels<3, 2, 2>, kernels<3, 2, 4>};

}  // namespace winograd
