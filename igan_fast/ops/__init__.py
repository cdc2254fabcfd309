"""The package's operators, fused: equal to ``igan_fast.reference.ops``, faster, and free to import alone.

- ``feature_l1``: Σ wᵢ · mean|fakeᵢ − realᵢ| over any nesting of feature maps, in one launch
- ``norm_act``: batch normalisation (of the batch, of parts of it apart, or of each instance) and LeakyReLU
- ``conv_norm_act``: a (transposed) convolution, then ``norm_act``
- ``backends``: which implementations this machine has, and why the others are missing

They take what PyTorch's own functions take: float16, bfloat16, float32 and float64, any memory layout, autograd of
any order, autocast, ``torch.compile(fullgraph=True)``, and (not tried on a GPU yet) CUDA graphs. Under ``torch.func``,
``is_grads_batched``, forward mode, ``torch.jit.trace``, ``torch.export``, ONNX and dispatch modes, and of subclasses,
they are PyTorch's own functions; ``torch.fx`` notes each down as one call; ``torch.jit.script`` is refused. Each has
``impl=``: ``"auto"`` (the default; the environment variable ``IGAN_FAST_IMPL`` can name another) takes the fastest
implementation that can run the given tensors, ``"native"`` (C++ and CUDA), ``"triton"`` or ``"reference"`` insist on
one. ``igan-fast doctor`` tells what there is.

Feature matching in a training loop of your own, over a multi-scale discriminator that returns a list of feature maps
for each scale:

    from igan_fast.ops import feature_l1

    fake = discriminator(fake_images)      # [[h1, h2, h3], [h1, h2, h3], ...]
    with torch.no_grad():                  # the target: no gradient, so half
        real = discriminator(real_images)  # the memory traffic
    loss = adversarial(fake) + 10 * feature_l1(fake, real)
    loss.backward()

A block of a network of your own:

    from igan_fast.ops import norm_act

    # instead of F.leaky_relu(self.norm(self.conv(x)), 0.2)
    def forward(self, x):
        norm = self.norm  # an nn.BatchNorm2d
        return norm_act(
            self.conv(x), norm.weight, norm.bias,
            norm.running_mean, norm.running_var,
            training=self.training, negative_slope=0.2,
        )
"""

from igan_fast.ops.backend import backends
from igan_fast.ops.conv_norm_act import conv_norm_act
from igan_fast.ops.feature_l1 import feature_l1
from igan_fast.ops.norm_act import norm_act

__all__ = ["backends", "conv_norm_act", "feature_l1", "norm_act"]
