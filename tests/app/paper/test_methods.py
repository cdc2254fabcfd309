"""Every method is seen alike: what the adapters pass on, and the images as arrays."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from igan_fast.app.paper import images as images_module
from igan_fast.app.paper.images import NotFinite, edited, flipped, generated, rebuilt
from igan_fast.app.paper.methods import Baseline, NoEdit, Ours, PerAttribute, RebuildOnly
from igan_fast.baselines.interface import BaselineNetworks
from igan_fast.data import to_float, to_uint8
from igan_fast.editor import FaceEditor
from igan_fast.reference.editing import Companions

RNG = np.random.default_rng(0)
PHOTOS = RNG.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
LABELS = np.array([[0, 0, 1, 0, 1], [1, 0, 0, 0, 1], [0, 0, 1, 1, 0], [1, 1, 1, 1, 1], [0, 1, 1, 0, 0]], np.uint8)


class Shifter(BaselineNetworks):
    """Adds to the first channel what the changes say, times a step; notes what it is called with."""

    def __init__(self, attributes: int, step: float = 0.25) -> None:
        super().__init__(32, attributes)
        self.step = nn.Parameter(torch.tensor(step))
        self.calls: list[tuple[list[list[float]], dict[int, float], bool]] = []

    def edit(self, images: Tensor, labels: Tensor, changes: Mapping[int, float]) -> Tensor:
        self.calls.append((labels.tolist(), dict(changes), self.training or torch.is_grad_enabled()))
        result = images.clone()
        for index, value in changes.items():
            result[:, index] += (2 * value - 1) * self.step
        return result.clamp(-1, 1)


class Flat(BaselineNetworks):
    """Faces of one colour: the mean of the noise, and the first labels."""

    latent = 2

    def __init__(self) -> None:
        super().__init__(32, 5)
        self.weight = nn.Parameter(torch.ones(1))

    def draw_noise(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.rand(n, 2, generator=generator) * 2 - 1

    def generate(self, z: Tensor, c: Tensor) -> Tensor:
        colour = torch.stack([z.mean(dim=1), c[:, 0], c[:, 1]], dim=1) * self.weight
        return colour[:, :, None, None].expand(-1, -1, 32, 32)


def test_ours_makes_what_the_model_makes(drawn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images_module, "BATCH", 2)
    companions = Companions.of_labels(torch.from_numpy(drawn.labels))
    method = Ours(drawn.model.train(), strength=1.25, companions=companions)
    x, c = to_float(torch.from_numpy(PHOTOS)), torch.from_numpy(LABELS).float()
    noise = method.draw_noise(5, torch.Generator().manual_seed(3))
    assert noise.shape == (5, 6)
    assert -1 <= noise.min() < 0 < noise.max() <= 1
    found = {
        "rebuilt": rebuilt(method, PHOTOS),
        "edited": edited(method, PHOTOS, LABELS, {1: 1.0, 3: 0.0}),
        "generated": generated(method, noise, LABELS),
    }
    recognised = method.recognise(x)
    assert drawn.model.training
    drawn.model.eval()
    with torch.no_grad():
        expected = {
            "rebuilt": drawn.model.rebuild(x),
            "edited": drawn.model.transform(x, {1: 1.0, 3: 0.0}, strength=1.25, companions=companions),
            "generated": drawn.model.generate(noise, c),
        }
        torch.testing.assert_close(recognised, drawn.model.encode(x).label_logits.sigmoid())
    for name, images in expected.items():
        assert np.abs(found[name].astype(int) - to_uint8(images).numpy()).max() <= 1, name
    np.testing.assert_array_equal(edited(RebuildOnly(method), PHOTOS, LABELS, {0: 1.0}), found["rebuilt"])
    np.testing.assert_array_equal(edited(NoEdit(5), PHOTOS, LABELS, {0: 1.0}), PHOTOS)
    assert method.editable == RebuildOnly(method).editable == NoEdit(5).editable == (0, 1, 2, 3, 4)


def test_ours_of_an_editor_has_its_companions(drawn) -> None:
    companions = Companions.of_labels(torch.from_numpy(drawn.labels))
    editor = FaceEditor(drawn.model, list("abcde"), companions=companions)
    assert Ours.of(editor).companions is companions
    assert (Ours.of(editor).strength, Ours.of(editor).ours) == (2.0, True)
    assert Ours.of(editor, companions=False, ours=False, name="pixel only", strength=1).companions is None


def test_labels_of_ours_are_those_of_the_editor(drawn) -> None:
    method = Ours(drawn.model)
    changed = method.changed_labels(torch.zeros(2, 5), {0: 1.0, 4: 1.0})
    np.testing.assert_allclose(changed, [[1.5, 0, 0, 0, 1.5]] * 2)


def test_a_baseline_computes_in_eval_mode_without_gradients() -> None:
    networks = Shifter(5).train()
    method = Baseline("shifter", networks)
    found = edited(method, PHOTOS, LABELS, {1: 1.0})
    expected = to_float(torch.from_numpy(PHOTOS))
    expected[:, 1] = (expected[:, 1] + 0.25).clamp(max=1)
    np.testing.assert_array_equal(found, to_uint8(expected).numpy())
    assert networks.calls == [(LABELS.tolist(), {1: 1.0}, False)]
    assert networks.training
    assert (method.ours, method.editable) == (False, (0, 1, 2, 3, 4))


def test_networks_of_one_attribute_get_only_its_label() -> None:
    first, second = Shifter(1), Shifter(1, 0.5)
    method = PerAttribute("pairs", {2: first, 0: second})
    assert method.editable == (0, 2)
    found = edited(method, PHOTOS, LABELS, {2: 1.0, 0: 0.0})
    assert first.calls == [(LABELS[:, [2]].tolist(), {0: 1.0}, False)]
    assert second.calls == [(LABELS[:, [0]].tolist(), {0: 0.0}, False)]
    expected = to_float(torch.from_numpy(PHOTOS))
    expected[:, 0] = (expected[:, 0] + 0.25).clamp(max=1)
    expected[:, 0] -= 0.5
    np.testing.assert_array_equal(found, to_uint8(expected.clamp(-1, 1)).numpy())
    with pytest.raises(ValueError, match=r"pairs cannot change attribute 1, only \[0, 2\]"):
        edited(method, PHOTOS, LABELS, {1: 1.0})
    with pytest.raises(ValueError, match="found none"):
        PerAttribute("pairs", {})


def test_networks_that_know_some_attributes_get_only_these() -> None:
    networks = Shifter(2)
    method = Baseline("StarGAN", networks, columns=[4, 1])
    assert method.editable == (1, 4)
    edited(method, PHOTOS, LABELS, {1: 0.0, 4: 1.0})
    assert networks.calls == [(LABELS[:, [4, 1]].tolist(), {1: 0.0, 0: 1.0}, False)]
    with pytest.raises(ValueError, match=r"StarGAN cannot change attribute 0, only \[1, 4\]"):
        edited(method, PHOTOS, LABELS, {0: 1.0})
    faces = Baseline("flat", Flat(), columns=[1, 0, 2, 3, 4])
    found = generated(faces, torch.zeros(5, 2), LABELS)
    np.testing.assert_array_equal(found[:, 0, 0, 1], np.where(LABELS[:, 1], 255, 128))
    with pytest.raises(ValueError, match="columns: found 1 for networks of 2 attributes"):
        Baseline("StarGAN", networks, columns=[1])


def test_a_flip_is_the_opposite_of_each_label() -> None:
    found = flipped(Baseline("shifter", Shifter(5)), PHOTOS, LABELS, [2, 0])
    for photo, label, image in zip(PHOTOS, LABELS, found, strict=True):
        expected = to_float(torch.from_numpy(photo[None]))
        for index in (0, 2):
            expected[:, index] += -0.25 if label[index] else 0.25
        np.testing.assert_array_equal(image, to_uint8(expected.clamp(-1, 1)).numpy()[0])


def test_faces_come_from_the_noise_and_the_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images_module, "BATCH", 3)
    method = Baseline("flat", Flat())
    noise = method.draw_noise(5, torch.Generator().manual_seed(0))
    found = generated(method, noise, LABELS)
    np.testing.assert_array_equal(found[:, 0, 0, 1], np.where(LABELS[:, 0], 255, 128))
    np.testing.assert_array_equal(found[:, 5, 7, 2], np.where(LABELS[:, 1], 255, 128))
    np.testing.assert_allclose(found[:, 1, 1, 0], (noise.mean(dim=1) + 1) * 127.5, atol=0.51)


def test_images_that_are_not_finite_name_the_method() -> None:
    networks = Shifter(5)
    networks.step.data.fill_(float("nan"))
    with pytest.raises(NotFinite, match="StarGAN: its images are NaN or infinite"):
        edited(Baseline("StarGAN", networks), PHOTOS, LABELS, {0: 1.0})
