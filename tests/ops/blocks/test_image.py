"""``block_image``, with and without scales and shifts of each image, against the reference's blocks in float64."""

from __future__ import annotations

import pytest
import torch
from oracles import DTYPES, HALF

pytest.importorskip("triton", reason="Triton is not installed")

from block_networks import EPS, MOMENTUM, ImageNetwork, Layer, assert_all_as_good, seeds

from igan_fast.ops.blocks import Norm, block_image
from igan_fast.ops.convolution import ConvSettings

pytestmark = pytest.mark.usefixtures("asked")


@pytest.mark.parametrize("films", [False, True], ids=["", "film"])
@pytest.mark.parametrize(
    ("kernel", "groups", "dtype"),
    [
        ((5, 2, 1), 1, torch.float32),
        *(((5, 2, 1), 2, dtype) for dtype in DTYPES),
        ((4, 1, 0), 2, torch.float64),
        ((3, 2, 0), 2, torch.float64),
    ],
)
def test_an_image(kernel: tuple[int, int, int], groups: int, dtype: torch.dtype, films: bool) -> None:
    """G's layers: the first map is normalised, the last convolution makes an image. The activation is a ReLU; in half
    types a LeakyReLU, whose channels are not all 0 then."""
    taps, padding, extra = kernel
    options = {"stride": 2, "padding": padding, "output_padding": extra}
    compared = []
    for seed in seeds(dtype):
        torch.manual_seed(seed)
        layers = [Layer(ends, (taps, taps), True, **options) for ends in ((7, 5), (5, 6))]
        network = ImageNetwork(layers, (4, 7, 5, 4), (6, 3, taps, taps), films, **options)
        if dtype in HALF:
            network.away_from_kinks()
        compared.append(network.compare(0.2 if dtype in HALF else 0.0, groups, dtype))
    assert_all_as_good(compared, dtype)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_film_of_many_parts(small_parts: None, groups: int) -> None:
    """Each image has several tiles and several steps, of which the last ones are not full; strided convolutions too."""
    layers = [
        Layer((3, 4), (3, 2), stride=(2, 1), padding=(1, 0)),
        Layer((4, 17), (5, 5), True, stride=2, padding=2, output_padding=1),
        Layer((17, 5), (1, 1)),
    ]
    network = ImageNetwork(layers, (4, 3, 9, 6), (5, 1, 4, 3), True, stride=(2, 1))
    assert_all_as_good([network.compare(0.2, groups, torch.float64)], torch.float64)


def test_film_in_any_layout_and_wider_than_the_maps() -> None:
    """Float32 for maps in bfloat16, and a view."""
    x, weight = torch.randn(2, 3, 4, 4).bfloat16(), torch.randn(3, 3, 3, 3).bfloat16()
    norm, settings = Norm(None, None, None, None, MOMENTUM, EPS, 0.2, 1), ConvSettings.cached(2, transposed=True)
    film = torch.randn(2, 12, requires_grad=True)
    image = block_image(x, norm, [], weight, None, settings, [film[:, ::2]])
    copy = film.detach()[:, ::2].clone().requires_grad_()
    assert torch.equal(image, block_image(x, norm, [], weight, None, settings, [copy]))
    image.float().square().sum().backward()
    block_image(x, norm, [], weight, None, settings, [copy]).float().square().sum().backward()
    assert film.grad is not None
    assert film.grad.dtype == torch.float32
    assert torch.equal(film.grad[:, ::2], copy.grad)
    assert copy.grad.abs().min() > 0


def test_errors_of_films() -> None:
    x, weight, film = torch.randn(2, 3, 4, 4), torch.randn(3, 3, 3, 3), torch.randn(2, 6)
    norm, settings = Norm(None, None, None, None, MOMENTUM, EPS, 0.2, 1), ConvSettings.cached(2, transposed=True)
    with pytest.raises(ValueError, match="found 2 films; expected 1, for x and for each block"):
        block_image(x, norm, [], weight, None, settings, [film, film])
    with pytest.raises(ValueError, match=r"film has shape \(2, 5\); expected \(2, 6\)"):
        block_image(x, norm, [], weight, None, settings, [film[:, :5]])
