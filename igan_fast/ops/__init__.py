"""Fused operators. They equal those of ``igan_fast.reference.ops``, are faster, and can be used in other models.

- ``feature_l1``: Σ wᵢ · mean|fakeᵢ − realᵢ| over any nesting of feature maps, in one operator
- ``norm_act``: normalisation (of the batch, of its parts separately, or of each image), LeakyReLU and, if wanted, a
  scale and a shift for each channel of each image
- ``conv_norm_act``: a (transposed) convolution, then ``norm_act``
- ``backends``: which implementations this machine has, and why the others are missing
- ``explain``: which of them computes a convolution, and why

Both normalisations can use the statistics of several processes (``process_group``).

They support what PyTorch's own functions support: float16, bfloat16, float32 and float64, any memory layout, autograd
of any order, autocast, ``torch.compile(fullgraph=True)``, and CUDA graphs (not tried on a GPU yet). They call PyTorch's
own functions under ``torch.func``, ``is_grads_batched``, forward mode, ``torch.jit.trace``, ``torch.export``, ONNX
export and dispatch modes, and for tensor subclasses. ``torch.fx`` records each operator as one
call. ``torch.jit.script`` raises an error.

Each operator has the argument ``impl``. ``"auto"``, the default, chooses the fastest implementation for the given
tensors; the environment variable ``IGAN_FAST_IMPL`` can name another default. ``"native"`` (C++ and CUDA),
``"triton"`` and ``"reference"`` name one implementation, and raise an error where it cannot run. ``igan-fast doctor``
shows which implementations this machine has.

Feature matching in your own training loop, with a multi-scale discriminator that returns a list of feature maps for
each scale:

    from igan_fast.ops import feature_l1

    fake = discriminator(fake_images)      # [[h1, h2, h3], [h1, h2, h3], ...]
    with torch.no_grad():                  # the target needs no gradient
        real = discriminator(real_images)
    loss = adversarial(fake) + 10 * feature_l1(fake, real)
    loss.backward()

A block of your own network:

    from igan_fast.ops import norm_act

    # instead of F.leaky_relu(self.norm(self.conv(x)), 0.2)
    def forward(self, x):
        norm = self.norm  # an nn.BatchNorm2d
        return norm_act(
            self.conv(x), norm.weight, norm.bias,
            norm.running_mean, norm.running_var,
            training=self.training, negative_slope=0.2,
        )

A conditional block, whose result is scaled and shifted as a code (N, K) says:

    # film = nn.Linear(K, 2 * channels) returns γ and β of each image
    y = norm_act(x, weight, bias, film=film(code))  # … · (1 + γ) + β
"""

from igan_fast.ops.backend import backends
from igan_fast.ops.conv_norm_act import conv_norm_act
from igan_fast.ops.explain import explain
from igan_fast.ops.feature_l1 import feature_l1
from igan_fast.ops.norm_act import norm_act

__all__ = ["backends", "conv_norm_act", "explain", "feature_l1", "norm_act"]
