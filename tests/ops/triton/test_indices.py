"""Every offset that a Triton kernel reads or writes at, for tensors far larger than this machine's memory.

The launches' own code runs on meta tensors, which have no data. Of each launch the first, the middle and the last
program run in Triton's interpreter, where loads and stores record the offsets and touch no memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed")

from triton.runtime.interpreter import (
    GridExecutor,
    InterpretedFunction,
    TensorHandle,
    _get_np_dtype,
    interpreter_builder,
)

from igan_fast.ops import backend
from igan_fast.ops.norm_act import launchable
from igan_fast.ops.sign_mask import sign_mask_bytes
from igan_fast.ops.triton import (
    common,
    convolution,
    convolution_blocks,
    convolution_image,
    convolution_image_weight,
    convolution_launch,
    convolution_weight,
    feature_l1,
    feature_l1_raw,
    gather_images,
    norm_act,
    norm_act_launches,
)

if not common.INTERPRETED:
    pytest.skip("Triton's kernels are compiled here", allow_module_level=True)

CUDA = torch.device("cuda")
FAR = 48  # bits of an address below those that number the tensor
launch_of = InterpretedFunction.__getitem__


@dataclass
class Pointer:
    """Stands for a tensor: an address where there is no memory."""

    number: int
    dtype: torch.dtype

    def data_ptr(self) -> int:
        return (self.number + 1) << FAR


class Seen(dict[str, tuple[int, int]]):
    """The least and the greatest offset into each argument, by "kernel.argument"."""

    def __init__(self) -> None:
        self.values: dict[str, int] = {}  # that loads from an argument return; 0 where it is not named
        self.room: dict[str, int] = {}  # the length of an argument's memory, in elements

    def note(self, where: str, offsets: np.ndarray[Any, Any]) -> None:
        least, greatest = self.get(where, (0, 0))
        self[where] = min(least, int(offsets.min())), max(greatest, int(offsets.max()))

    def check(self) -> None:
        assert self
        for where, (least, greatest) in self.items():
            assert least >= 0, where
            assert greatest < self.room[where], where


class Watched:
    """A kernel of which a few programs are run, on pointers to nothing."""

    def __init__(self, kernel: InterpretedFunction, seen: Seen) -> None:
        self.kernel, self.name, self.seen = kernel, kernel.__name__, seen

    def launch(self, grid: tuple[int, ...]) -> Any:
        assert len(grid) == 1, "the other dimensions of a grid end at 65,535"
        assert 1 <= grid[0] <= 2**31 - 1

        def launch(*arguments: Any, **options: Any) -> None:
            tensors: list[tuple[str, Tensor]] = []

            def pointer(argument: Any, name: str) -> Any:
                if isinstance(argument, tuple):
                    return tuple(pointer(part, name) for part in argument)
                if not isinstance(argument, Tensor):
                    return argument
                tensors.append((f"{self.name}.{name}", argument))
                return Pointer(len(tensors) - 1, argument.dtype)

            given = [pointer(a, n) for a, n in zip(arguments, self.kernel.arg_names, strict=False)]
            for where, tensor in tensors:
                room = 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
                self.seen.room[where] = max(self.seen.room.get(where, 0), room if tensor.numel() else 0)
            arguments_by_name = dict(zip(self.kernel.arg_names, given, strict=False))
            if self.name == "combine_sums" and arguments_by_name["groups"] > 16:
                return  # one program loops over the groups, which takes an interpreter too long
            last = grid[0] - 1
            for program in sorted({0, last // 2, last}):
                self.run(program, tensors, given, options)

        return launch

    def run(self, program: int, tensors: list[tuple[str, Tensor]], given: list[Any], options: Any) -> None:
        def places(pointers: TensorHandle, mask: TensorHandle) -> str:
            addresses = pointers.data.astype(np.int64)
            touched = addresses[np.broadcast_to(mask.data, addresses.shape)]
            if not touched.size:
                return ""
            number = (int(touched[0]) + (1 << FAR - 1) >> FAR) - 1
            where, tensor = tensors[number]
            self.seen.note(where, (touched - (number + 1 << FAR)) // tensor.element_size())
            return where

        def load(pointers: TensorHandle, mask: TensorHandle, *_: Any) -> TensorHandle:
            value = self.seen.values.get(places(pointers, mask), 0)
            kind = pointers.get_element_ty()
            return TensorHandle(np.full_like(pointers.data, value, dtype=_get_np_dtype(kind)), kind)

        def store(pointers: TensorHandle, _: Any, mask: TensorHandle, *__: Any) -> None:
            places(pointers, mask)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(GridExecutor, "_init_args_hst", lambda _, arguments, options: (arguments, options))
            patch.setattr(GridExecutor, "_restore_args_dev", lambda *_: None)
            patch.setattr(interpreter_builder, "create_masked_load", load)
            patch.setattr(interpreter_builder, "create_masked_store", store)
            number = TensorHandle(np.array([program], dtype=np.int32), common.tl.int32)
            patch.setattr(interpreter_builder, "create_get_program_id", lambda axis: number)
            launch_of(self.kernel, (1,))(*given, **options)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Seen]:
    found = Seen()
    monkeypatch.setattr(InterpretedFunction, "__getitem__", lambda kernel, grid: Watched(kernel, found).launch(grid))
    # So that no program loops for long.
    for name, value in (("_TILE", 2**16), ("_COMBINE_SEGMENTS", 2**10), ("_PROGRAMS", 2**13)):
        monkeypatch.setattr(norm_act_launches, name, value)
    for module in (convolution, convolution_blocks):
        monkeypatch.setattr(module, "_COMBINE_SEGMENTS", 2**15)
    monkeypatch.setattr(convolution_weight, "_PROGRAMS", 2**15)
    monkeypatch.setattr(convolution_image_weight, "_PROGRAMS", 2**19)
    monkeypatch.setattr(convolution_image_weight, "_SEGMENTS", 2**14)
    yield found
    found.check()


def meta(*shape: int, dtype: torch.dtype = torch.float16, last: bool = False) -> Tensor:
    form = torch.channels_last if last else torch.contiguous_format
    return torch.empty(shape, dtype=dtype, device="meta", memory_format=form)


NORMS = {
    "batch of one": ((1, 64, 8192, 8192), False, 1),
    "one channel more": ((2, 65, 8192, 8192), False, 2),
    "channels last": ((1, 96, 8192, 8192), True, 1),
    "many groups": ((70_000, 3, 4, 4), False, 70_000),
    "many groups, channels last": ((70_000, 33, 2, 2), True, 70_000),
    "many groups of many channels": ((70_000, 50_000, 1, 1), False, 35_000),
    "many channels": ((2, 70_000, 3, 3), False, 1),
    "very many channels, channels last": ((3, 4_500_000, 2, 2), True, 1),
    "the most values": ((1, 3, 32768, 32768), False, 1),
    "the most values, channels last": ((1, 3, 32768, 32768), True, 1),
    "small": ((4, 3, 5, 7), False, 2),
}


@pytest.mark.parametrize("case", NORMS)
def test_norm_act(seen: Seen, case: str) -> None:
    shape, last, groups = NORMS[case]
    x, vector = meta(*shape, last=last), meta(shape[1], dtype=torch.float32)
    assert launchable(backend.TRITON, CUDA, shape, groups, film=False)
    _, mean, var = norm_act.norm_act(x, vector, vector, 1e-5, 0.2, groups)
    norm_act.norm_act_backward(x, x, vector, None, mean, var, 1e-5, 0.2, True)
    norm_act.norm_act_inference(x, None, vector, vector, vector, 1e-5, 0.2)
    norm_act.norm_act_update(vector, vector, mean[:2], var[:2], 10, 0.1)
    for where in ("moments.x", "apply.x", "apply.y", "sums.grad", "gradient.dx"):
        assert seen[where] == (0, x.numel() - 1), where
    assert seen["combine_moments.mean"] == (0, mean.numel() - 1)
    if groups <= 16:
        assert seen["combine_sums.mean_grads"] == (0, mean.numel() - 1)


FILMS = {
    "one image": ((1, 64, 8192, 8192), False, 1),
    "one image, channels last": ((1, 96, 8192, 8192), True, 1),
    "many images": ((300_000, 64, 8, 8), False, 1),
    "many images, channels last": ((300_000, 64, 8, 8), True, 2),
    "large film": ((70_000, 30_000), False, 1),
    "small": ((4, 3, 5, 7), False, 2),
}


@pytest.mark.parametrize("case", FILMS)
def test_norm_act_with_film(seen: Seen, case: str) -> None:
    shape, last, groups = FILMS[case]
    x, vector = meta(*shape, last=last), meta(shape[1], dtype=torch.float32)
    film = meta(shape[0], 2 * shape[1] + 1)[:, 1:]
    assert launchable(backend.TRITON, CUDA, shape, groups, film=True)
    _, mean, var = norm_act.norm_act(x, vector, None, 1e-5, 0.2, groups, film)
    *_, dfilm = norm_act.norm_act_backward(x, x, vector, None, mean, var, 1e-5, 0.2, True, film)
    norm_act.norm_act_inference(x, None, vector, vector, vector, 1e-5, 0.2, film)
    for where in ("moments.x", "apply.x", "apply.y", "sums.grad", "gradient.dx"):
        assert seen[where] == (0, x.numel() - 1), where
    for where in ("apply.mean", "sums.mean", "gradient.mean", "gradient.mean_grads", "combine_sums.mean_grads"):
        assert seen[where] == (0, mean.numel() - 1), where
    for where in ("apply.film", "sums.film", "gradient.film"):
        assert seen[where] == (0, (shape[0] - 1) * film.stride(0) + film.shape[1] - 1), where
    assert seen["combine_film.dfilm"] == (0, dfilm.numel() - 1)


@pytest.mark.parametrize(("shape", "groups"), [((1, 1, 2**16, 2**15), 1), ((2, 1, 2**15, 2**15), 1)])
def test_what_is_too_large_is_refused(seen: Seen, shape: tuple[int, ...], groups: int) -> None:
    x = meta(*shape)
    assert not launchable(backend.TRITON, CUDA, shape, groups, film=False)
    assert launchable(backend.TRITON, torch.device("cpu"), shape, groups, film=False)
    with pytest.raises(RuntimeError, match=r"the tensors are too large for one launch: .*; use impl='reference'"):
        norm_act.norm_act(x, None, None, 1e-5, 0.2, groups)
    norm_act.norm_act_update(*(meta(2, dtype=torch.float32) for _ in range(2)), meta(1, 2), meta(1, 2), 10, 0.1)


def test_feature_l1(seen: Seen) -> None:
    fakes = [meta(1, 64, 8192, 8192), meta(3, 5), meta(2, 17, 16384, 8192), meta(3_000_000, 1000)[:, ::2]]
    reals = [
        meta(1, 64, 8192, 8192),
        meta(5, 3).t(),
        meta(2, 17, 16384, 8192, last=True),
        meta(3_000_000, 1).expand(-1, 500),
    ]
    _, signs = feature_l1.feature_l1(fakes, reals, [1.0] * 4, True)
    numels = [f.numel() for f in fakes]
    offsets = [sum(map(sign_mask_bytes, numels[:i])) for i in range(4)]
    feature_l1.feature_l1_backward(meta(dtype=torch.float32), signs, numels, offsets, [1.0] * 4, torch.float16)
    assert seen["forward.masks"][1] == signs.numel() - 1
    assert seen["forward.fakes"][1] == 3_000_000 * 1000 - 2


def test_feature_l1_from_end_to_end(seen: Seen) -> None:
    """One pair, so that its last program is the launch's."""
    fake = meta(2, 17, 16384, 8192)
    _, signs = feature_l1.feature_l1([fake], [meta(2, 17, 16384, 8192, last=True)], [1.0], True)
    feature_l1.feature_l1_backward(meta(dtype=torch.float32), signs, [fake.numel()], [0], [1.0], torch.float32)
    for where in ("forward.fakes", "forward.reals", "backward.outs"):
        assert seen[where] == (0, fake.numel() - 1), where
    assert seen["forward.masks"][1] == signs.numel() - 1


@pytest.mark.parametrize("channels", [64, 3])
def test_convolution(seen: Seen, channels: int) -> None:
    side, stride, padding = (1024 if channels == 64 else 4096), (2, 2), (1, 1)
    large, small = meta(48, channels, side, side), meta(48, 256, side // 2, side // 2)
    weight, affine = meta(256, channels, 3, 3), meta(1, 3, channels, dtype=torch.float32)
    convolution.convolution(large, weight, None, small.shape[2:], stride, padding, False, 1.0, affine, 0.2)
    assert seen["convolve.x"] == (0, large.numel() - 1)
    assert seen["convolve.y"] == (0, small.numel() - 1)
    if channels == 64:  # else an interpreter takes too long
        convolution.convolution_statistics(small, weight, (side, side), stride, padding, True, 48)
        assert seen["convolve.x"][1] == small.numel() - 1
        convolution_weight.convolution_weight_gradient(small, large, (3, 3), stride, padding, False)
        assert seen["weight_gradient.large"] == (0, large.numel() - 1)
        assert seen["add_segments.out"] == (0, weight.numel() - 1)


def test_blocks(seen: Seen) -> None:
    stride, padding, side, groups = (2, 2), (1, 1), 4608, 2
    large, small, weight = meta(2, 64, side, side), meta(2, 256, side // 2, side // 2), meta(256, 64, 3, 3)
    wide = {"dtype": torch.float32}
    of_large, of_small = ((meta(groups, 3, c, **wide), meta(groups, c, **wide)) for c in (64, 256))
    terms = meta(2, groups, 256, **wide)
    signs, one = meta(sign_mask_bytes(large.numel()), dtype=torch.uint8), meta(**wide)
    gradient = small, of_small[0], terms
    convolution_blocks.convolution_block_gradient(
        small, weight, (side, side), stride, padding, True, *gradient, large, *of_large, 0.2, 1e-5, signs, one, 0.5
    )
    assert seen["convolve.y"] == seen["convolve.before"] == (0, large.numel() - 1)
    assert seen["convolve.gradient"] == (0, small.numel() - 1)
    assert seen["convolve.distance"] == (0, signs.numel() - 1)
    convolution_weight.convolution_weight_gradient(
        small, large, (3, 3), stride, padding, False, of_large[0], 0.2, *gradient
    )
    assert seen["weight_gradient.gradient"] == (0, small.numel() - 1)
    assert seen["weight_gradient.affine"] == (0, of_large[0].numel() - 1)
    picture, of_picture = meta(2, 3, 2 * side, 2 * side), meta(64, 3, 5, 5)
    convolution_blocks.convolution_image_block_gradient(
        picture, of_picture, (side, side), (2, 2), (2, 2), large, *of_large, 0.0, 1e-5
    )
    assert seen["convolve_image.before"] == seen["convolve_image.y"] == (0, large.numel() - 1)
    feature_l1_raw.feature_l1_raw([large], [large], [of_large[0]], [of_large[0]], [0.2], [0.2], [1.0])
    for where in ("fakes", "reals"):
        assert seen[f"forward_raw.{where}"] == (0, large.numel() - 1), where
    assert seen["forward_raw.masks"] == (0, signs.numel() - 1)


def test_film(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many images, of one position each. The last segment of a weight's gradient has steps after the last image."""
    monkeypatch.setattr(convolution_weight, "_PROGRAMS", 2**17)
    images, channels, wide = 65_601, 2**14, {"dtype": torch.float32}
    monkeypatch.setattr(convolution_launch, "_STEP_BYTES", 2 * channels)  # a convolution has one step
    x, y = meta(images, channels, 1, 1), meta(images, 16, 1, 1)
    film, geometry = meta(images, 2 * channels), ((1, 1), (0, 0))
    weight, to_image = meta(16, channels, 1, 1), meta(channels, 16, 1, 1)
    affine, before = meta(1, 3, channels, **wide), (x, meta(1, 3, channels, **wide), meta(1, channels, **wide))
    last, nothing = (0, film.numel() - 1), [None] * 3
    assert last[1] > 2**31
    convolution.convolution_statistics(x, weight, (1, 1), *geometry, False, 1, affine, 0.2, film)
    assert seen.pop("convolve.film") == last
    convolution_weight.convolution_weight_gradient(y, x, (1, 1), *geometry, False, affine, 0.2, *nothing, film)
    assert seen.pop("weight_gradient.film") == last
    convolution_weight.convolution_weight_gradient(y, x, (1, 1), *geometry, True, affine, 0.2, *nothing, film)
    assert seen["weight_gradient.film"] == last
    convolution_blocks.convolution_block_gradient(
        y, weight, (1, 1), *geometry, True, *nothing, *before, 0.2, 1e-5, None, None, 1.0, film
    )
    assert seen["combine_film.film_sums"] == seen["combine_film.dfilm"] == last
    convolution_blocks.convolution_image_block_gradient(y, to_image, (1, 1), *geometry, *before, 0.2, 1e-5, film)
    convolution_image.convolution_to_image(x, to_image, None, (1, 1), *geometry, 1.0, None, 0.2, affine, film)
    assert seen["convolve.film"] == last
    convolution_image_weight.convolution_image_weight_gradient(x, y, (1, 1), *geometry, False, None, 0.2, affine, film)
    assert seen["image_weight_gradient.film"] == last


def test_convolution_of_images(seen: Seen) -> None:
    image, features, weight = meta(48, 3, 4096, 4096), meta(48, 64, 2048, 2048), meta(64, 3, 5, 5)
    geometry = (2, 2), (2, 2)
    convolution_image.convolution_from_image(image, weight, None, (2048, 2048), *geometry, 0.2)
    for where, tensor in (("image", image), ("y", features), ("weight", weight)):
        assert seen[f"convolve_image.{where}"] == (0, tensor.numel() - 1), where
    convolution_image.convolution_to_image(features, weight, None, (4096, 4096), *geometry, 1.0, features, 0.2)
    for where, tensor in (("convolve.x", features), ("convolve.signs", features), ("convolve.y", image)):
        assert seen[where] == (0, tensor.numel() - 1), where
    convolution_image_weight.convolution_image_weight_gradient(features, image, (5, 5), *geometry, True, features, 0.2)
    for where, tensor in (("features", features), ("signs", features), ("image", image)):
        assert seen[f"image_weight_gradient.{where}"] == (0, tensor.numel() - 1), where
    assert seen["image_weight_gradient.partial"][1] + 1 == seen.room["image_weight_gradient.partial"] > 2**31
    assert seen["image_weight_gradient.sums"][1] + 1 == seen.room["image_weight_gradient.sums"]
    assert seen["add_many_segments.out"] == (0, weight.numel() - 1)


@pytest.mark.parametrize(("index", "inside"), [(199_999, True), (200_000, False), (-1, False), (2**40, False)])
def test_gather_images(seen: Seen, index: int, inside: bool) -> None:
    """The last of 20 GB of images is read; of one that does not exist nothing is read."""
    images = meta(200_000, 200, 200, 3, dtype=torch.uint8)
    seen.values["gather.index"] = index
    gather_images.gather_images(images, meta(40_000, dtype=torch.int64), meta(40_000, dtype=torch.bool))
    assert seen["gather.out"] == (0, 40_000 * 200 * 200 * 3 - 1)
    assert seen["gather.index"] == (0, 39_999)
    if inside:
        assert seen["gather.images"] == (0, math.prod(images.shape) - 1)
    else:
        assert "gather.images" not in seen


@pytest.mark.parametrize(
    ("shape", "groups", "native", "triton"),
    [
        ((65_536, 4, 2, 2), 65_536, False, True),
        ((65_535, 4, 2, 2), 65_535, True, True),
        ((2, 65_536, 2, 2), 1, False, True),
        ((1, 1, 2**16, 2**15), 1, False, False),
        ((1, 64, 8192, 8192), 1, True, True),
        ((2**20, 2**12, 1, 1), 2**20, False, False),
    ],
)
def test_what_auto_leaves_to_the_reference(shape: tuple[int, ...], groups: int, native: bool, triton: bool) -> None:
    assert launchable(backend.NATIVE, CUDA, shape, groups, film=False) is native
    assert launchable(backend.TRITON, CUDA, shape, groups, film=False) is triton
    assert launchable(backend.NATIVE, torch.device("cpu"), shape, groups, film=False)
