"""The paper's networks (Sec. 4): generator G, discriminator D, classifier C, and the model that holds the three."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from igan_fast.reference import layers
from igan_fast.reference.editing import Companions, Edit, edited_images
from igan_fast.reference.recorded import Unscriptable

__all__ = ["Classifier", "Codes", "Discriminator", "DiscriminatorOutput", "Generator", "IterativeGAN"]

#: Units of the layer that D and C share (Sec. 5.3.1).
SHARED = 1024
#: Units of C's hidden layer before the attribute logits (Sec. 5.3.1).
LABEL_HIDDEN = 128
#: Upper limit of the number of weights of a layer. More do not fit into memory, and much larger numbers overflow int64.
MAX_WEIGHTS = 2**40
#: Factor of the layers that compute G's scales and shifts from the attributes (``film``). With initial weights of
#: N(0, 0.02) and a factor of 5, 40 attributes scale feature maps by 1 ± 0.6 at the start, and the layers learn faster.
FILM_GAIN = 5.0
#: Negative slope of every LeakyReLU, as in DCGAN.
LEAK = 0.2


class Generator(Unscriptable):
    """G: noise and attributes → image. Linear to (8w, S/16, S/16), then four 5×5 stride-2 transposed convolutions.

    Args:
        image_size: side S of the square images in pixels, a multiple of 16 from 32 up.
        attributes: number A of attributes.
        latent: size of the noise z.
        width: channels w of the last hidden feature map; the first has 8w.
        signed_labels: feed 2c − 1 ∈ [−1, 1], the range of z, to the network instead of c ∈ [0, 1].
        film: let the attributes also scale and shift the input x of each transposed convolution, per channel:
            (1 + γ) · x + β with [γ, β] = 5 · W(2c − 1), one matrix W for each (feature-wise linear modulation; Perez et
            al., AAAI 2018). In the paper the attributes enter only beside z, and later layers may lose them.
    """

    #: The module whose layers it uses. The fused networks replace it by ``igan_fast.layers``.
    layers: ClassVar[Any] = layers

    def __init__(
        self,
        image_size: int = 128,
        attributes: int = 40,
        latent: int = 100,
        width: int = 64,
        *,
        signed_labels: bool = False,
        film: bool = False,
    ) -> None:
        super().__init__()
        _check_sizes(image_size, attributes, latent, width)
        self.first_map = (8 * width, image_size // 16, image_size // 16)
        self.signed_labels = signed_labels
        self.project = self.layers.Linear(latent + attributes, 8 * width * (image_size // 16) ** 2, bias=False)
        self.norm = self.layers.NormAct2d(8 * width, negative_slope=0.0)
        self.up1 = self.layers.ConvTransposeNormAct2d(8 * width, 4 * width)
        self.up2 = self.layers.ConvTransposeNormAct2d(4 * width, 2 * width)
        self.up3 = self.layers.ConvTransposeNormAct2d(2 * width, width)
        self.to_rgb = nn.ConvTranspose2d(width, 3, 5, stride=2, padding=2, output_padding=1)
        channels = (8 * width, 4 * width, 2 * width, width) if film else ()
        self.film = nn.ModuleList(self.layers.Linear(attributes, 2 * count, bias=False) for count in channels)
        _initialise(self)

    def forward(self, z: Tensor, c: Tensor) -> Tensor:
        """Generate images.

        Args:
            z: noise (N, latent), uniform on [−1, 1] in training.
            c: attributes (N, A), in [0, 1] in training. Edits may go beyond, see ``igan_fast.reference.editing``.

        Returns:
            Images (N, 3, S, S) in [−1, 1].
        """
        return torch.tanh(self.to_rgb(self.last_map(*self.inputs(z, c))))

    def inputs(self, z: Tensor, c: Tensor) -> tuple[Tensor, Sequence[Tensor | None]]:
        """The first feature map (N, 8w, S/16, S/16), before its normalisation, and γ and β of the four maps that enter
        the transposed convolutions, each (N, 2 · channels); None without ``film``.

        Args:
            z, c: as of ``forward``.
        """
        c = c.to(z.dtype)
        signed = 2 * c - 1
        first = self.project(torch.cat([z, signed if self.signed_labels else c], dim=1)).unflatten(1, self.first_map)
        return first, [layer(FILM_GAIN * signed) for layer in self.film] or [None] * 4

    def last_map(self, x: Tensor, films: Sequence[Tensor | None]) -> Tensor:
        """The last hidden feature map (N, w, S/2, S/2).

        Args:
            x, films: as ``inputs`` returns them.
        """
        for layer, film in zip((self.norm, self.up1, self.up2, self.up3), films, strict=True):
            x = layer(x) if film is None else layer(x, film)  # one argument: any module may stand in for the layer
        return x


class DiscriminatorOutput(NamedTuple):
    """D's output for N images."""

    source: Tensor
    """(N,): logit of the probability that the image is a real photo."""
    shared: Tensor
    """(N, 1024): the shared layer, C's input."""
    features: tuple[Tensor, Tensor, Tensor, Tensor]
    """h¹..h⁴: the four feature maps (N, w·2ⁱ⁻¹, S/2ⁱ, S/2ⁱ), which the perceptual loss compares."""


class Discriminator(Unscriptable):
    """D: image → source logit, shared layer, feature maps. Four 5×5 stride-2 convolutions and two Linear layers.

    Args:
        image_size, width: as ``Generator``.
    """

    layers: ClassVar[Any] = layers

    def __init__(self, image_size: int = 128, width: int = 64) -> None:
        super().__init__()
        _check_sizes(image_size, 1, 1, width)
        self.down1 = nn.Conv2d(3, width, 5, stride=2, padding=2)  # no normalisation in the first layer, as in DCGAN
        self.down2 = self.layers.ConvNormAct2d(width, 2 * width, negative_slope=LEAK)
        self.down3 = self.layers.ConvNormAct2d(2 * width, 4 * width, negative_slope=LEAK)
        self.down4 = self.layers.ConvNormAct2d(4 * width, 8 * width, negative_slope=LEAK)
        flat = 8 * width * (image_size // 16) ** 2
        self.source = self.layers.Linear(flat, 1)
        self.shared = self.layers.Linear(flat, SHARED)
        _initialise(self)

    def forward(self, x: Tensor) -> DiscriminatorOutput:
        """Images (N, 3, S, S) in [−1, 1] → ``DiscriminatorOutput``."""
        h1 = F.leaky_relu(self.down1(x), LEAK)
        h2 = self.down2(h1)
        h3 = self.down3(h2)
        h4 = self.down4(h3)
        flat = h4.flatten(1)
        return DiscriminatorOutput(
            source=self.source(flat).squeeze(1),
            shared=F.leaky_relu(self.shared(flat), LEAK),
            features=(h1, h2, h3, h4),
        )


class Codes(NamedTuple):
    """C's output for N images: the input from which G rebuilds them."""

    z: Tensor
    """z̃ (N, latent) in [−1, 1]."""
    label_logits: Tensor
    """(N, A): their sigmoid is c̃, the probability of each attribute."""


class Classifier(Unscriptable):
    """C: D's shared layer → latent code and attribute logits (Sec. 5.3.1).

    Args:
        attributes, latent: as ``Generator``.
    """

    layers: ClassVar[Any] = layers

    def __init__(self, attributes: int = 40, latent: int = 100) -> None:
        super().__init__()
        self.latent = self.layers.Linear(SHARED, latent)
        self.hidden = self.layers.Linear(SHARED, LABEL_HIDDEN)
        self.labels = self.layers.Linear(LABEL_HIDDEN, attributes)
        _initialise(self)

    def forward(self, shared: Tensor) -> Codes:
        """The shared layer (N, 1024) → ``Codes``."""
        return Codes(
            z=self.latent_code(shared),
            label_logits=self.labels(F.leaky_relu(self.hidden(shared), LEAK)),
        )

    def latent_code(self, shared: Tensor) -> Tensor:
        """The shared layer (N, 1024) → z̃ (N, latent) in [−1, 1], the first of the ``Codes``."""
        return torch.tanh(self.latent(shared))


class IterativeGAN(Unscriptable):
    """One model for three jobs: recognise attributes, generate faces, rebuild and edit a photo (Sec. 3.1, Fig. 1).

    Args:
        image_size, attributes, latent, width, signed_labels, film: as ``Generator``.
    """

    networks: ClassVar[tuple[type[Generator], type[Discriminator], type[Classifier]]] = (
        Generator,
        Discriminator,
        Classifier,
    )

    generator: Generator
    discriminator: Discriminator
    classifier: Classifier

    def __init__(
        self,
        image_size: int = 128,
        attributes: int = 40,
        latent: int = 100,
        width: int = 64,
        *,
        signed_labels: bool = False,
        film: bool = False,
    ) -> None:
        super().__init__()
        self._arguments = {
            "image_size": image_size,
            "attributes": attributes,
            "latent": latent,
            "width": width,
            "signed_labels": signed_labels,
            "film": film,
        }
        generator, discriminator, classifier = self.networks
        self.generator = generator(image_size, attributes, latent, width, signed_labels=signed_labels, film=film)
        self.discriminator = discriminator(image_size, width)
        self.classifier = classifier(attributes, latent)

    def arguments(self) -> dict[str, Any]:
        """The constructor's arguments: ``IterativeGAN(**model.arguments())`` is a new model of the same sizes."""
        return dict(self._arguments)

    def encode(self, x: Tensor) -> Codes:
        """Images (N, 3, S, S) in [−1, 1] → (z̃ (N, latent) in [−1, 1], label logits (N, A))."""
        codes: Codes = self.classifier(self.discriminator(x).shared)
        return codes

    def generate(self, z: Tensor, c: Tensor) -> Tensor:
        """Noise (N, latent) in [−1, 1] and attributes (N, A) in [0, 1] → images (N, 3, S, S) in [−1, 1]."""
        images: Tensor = self.generator(z, c)
        return images

    def rebuild(self, x: Tensor) -> Tensor:
        """Rebuild images (N, 3, S, S) from their own codes: G(z̃, σ(c̃))."""
        return self.transform(x, {})

    def transform(
        self,
        x: Tensor,
        changes: Mapping[int, Edit],
        *,
        strength: float = 1.0,
        companions: Companions | None = None,
    ) -> Tensor:
        """Rebuild images (N, 3, S, S) with some attributes changed (Sec. 1, "two-stage approach").

        Args:
            changes: for the index of each attribute to change, its new value in [0, 1]; ``"flip"``: 1 where its
                probability is below 0.5, else 0; or an ``Amount``. The other attributes keep their probabilities.
            strength: how far the changed attributes go beyond (above 1) or short of (below 1) their values.
            companions: the attributes that go along with the changed ones; none where omitted. Both go beyond the
                paper, see ``igan_fast.reference.editing``; where both are omitted, the edit is the paper's.

        Raises:
            ValueError: an index, a value, an amount or the strength is out of range, or ``companions`` are of another
                number of attributes.
        """
        return edited_images(self, x, changes, strength=strength, companions=companions)


def _initialise(module: nn.Module) -> None:
    """As in DCGAN: weights ~ N(0, 0.02), normalisation weights ~ N(1, 0.02), biases 0."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(part.weight, 0.0, 0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, layers.NormAct2d) and part.weight is not None:
            nn.init.normal_(part.weight, 1.0, 0.02)


def _check_sizes(image_size: int, attributes: int, latent: int, width: int) -> None:
    sizes = {"image_size": image_size, "attributes": attributes, "latent": latent, "width": width}
    for name, value in sizes.items():
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise TypeError(f"{name} is {value!r}; expected a whole number")
    # Convert to Python's integers, because NumPy's would overflow below.
    image_size, attributes, latent, width = map(operator.index, sizes.values())
    if image_size < 32 or image_size % 16:
        raise ValueError(f"image_size is {image_size}; expected a multiple of 16 from 32 up")
    for name in ("attributes", "latent", "width"):
        if sizes[name] < 1:
            raise ValueError(f"{name} is {sizes[name]}; expected at least 1")
    flat = 8 * width * (image_size // 16) ** 2
    weights = max(flat * (latent + attributes), flat * SHARED, (8 * width) * (4 * width) * 25)
    if weights >= MAX_WEIGHTS:
        described = ", ".join(f"{name} {value}" for name, value in sizes.items())
        raise ValueError(f"{described}: a layer would have {weights:.1e} weights; expected fewer than 2⁴⁰")
