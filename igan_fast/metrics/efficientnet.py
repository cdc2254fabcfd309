"""EfficientNet-Lite0 (Tan and Le, ICML 2019; Google's variant for small devices), trained on ImageNet.

The KID is measured in its features where no Inception network is given, because a package ships its weights. The
attributes have the names of that file.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["EfficientNetLite0"]

#: For each stage: the number of blocks, the kernel's side, the stride of the first block, by how much a block widens
#: its input, and the channels that come out.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class EfficientNetLite0(nn.Module):
    """Maps images to the 1,280 features from which EfficientNet-Lite0 recognises the classes of ImageNet."""

    SIZE = 224  #: side of the images that it was trained on
    FEATURES = 1280

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = _SameConv2d(3, 32, 3, 2)
        self._bn0 = _batch_norm(32)
        blocks: list[nn.Module] = []
        channels = 32
        for count, side, stride, widen, to_channels in _STAGES:
            for index in range(count):
                blocks.append(_Block(channels, to_channels, side, stride if index == 0 else 1, widen))
                channels = to_channels
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = _SameConv2d(channels, self.FEATURES, 1)
        self._bn1 = _batch_norm(self.FEATURES)
        self._fc = nn.Linear(self.FEATURES, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, 224, 224) in [−1, 1] → the logits (N, 1000) of ImageNet's classes."""
        logits: Tensor = self._fc(self.features(x))
        return logits

    def features(self, x: Tensor) -> Tensor:
        """Images (N, 3, 224, 224) in [−1, 1] → the means (N, 1280) of the last feature map's channels."""
        x = F.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        pooled: Tensor = F.relu6(self._bn1(self._conv_head(x))).mean(dim=(2, 3))
        return pooled


class _SameConv2d(nn.Conv2d):
    """A convolution without bias whose result has 1/stride of the input's side. As in TensorFlow, the padding on the
    right and at the bottom is one larger where the two sides cannot be equal."""

    def __init__(self, channels: int, to_channels: int, side: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(channels, to_channels, side, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        side, stride = self.kernel_size[0], self.stride[0]
        total = [max((-(-length // stride) - 1) * stride + side - length, 0) for length in (x.shape[3], x.shape[2])]
        padding = [part for both in total for part in (both // 2, both - both // 2)]
        return super().forward(F.pad(x, padding) if any(padding) else x)


class _Block(nn.Module):
    """An inverted residual block: widen, convolve each channel, narrow."""

    def __init__(self, channels: int, to_channels: int, side: int, stride: int, widen: int) -> None:
        super().__init__()
        wide = channels * widen
        self._widens = widen > 1
        self._adds = stride == 1 and channels == to_channels
        if self._widens:
            self._expand_conv = _SameConv2d(channels, wide, 1)
            self._bn0 = _batch_norm(wide)
        self._depthwise_conv = _SameConv2d(wide, wide, side, stride, groups=wide)
        self._bn1 = _batch_norm(wide)
        self._project_conv = _SameConv2d(wide, to_channels, 1)
        self._bn2 = _batch_norm(to_channels)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self._widens else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        narrowed: Tensor = self._bn2(self._project_conv(y))
        return x + narrowed if self._adds else narrowed


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)
