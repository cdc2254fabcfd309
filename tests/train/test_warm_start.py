"""What a run takes over from the one that it starts from: each tensor, by the names of the attributes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from warm_starts import CHANGES, OLD, assert_equal, at_start, baseline_config, beginning

from igan_fast import IterativeGAN, models, reference
from igan_fast.baselines.load import BaselineDescription
from igan_fast.baselines.registry import BASELINES, BaselineName, baseline
from igan_fast.checkpoint import find_checkpoint, load_checkpoint, load_model
from igan_fast.checkpoint.description import ModelDescription
from igan_fast.train import train
from igan_fast.train.warm_start import Initial, attribute_axes, matched


@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_with_the_same_attributes_the_networks_are_the_old_ones(
    tiny: dict[str, Any], old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, impl: str
) -> None:
    method = at_start(beginning(tiny, tmp_path / "new", old, impl=impl), monkeypatch)
    assert method.ema.count == 0
    assert all(not optimizer.state for optimizer in method.optimizers.values())
    assert method.step.iteration == 0
    z, c = torch.rand(6, 5) * 2 - 1, torch.rand(6, 4).round()
    for weights, model in (("ema", method.ema.model), ("model", method.model)):
        expected = load_model(old, weights=weights)  # type: ignore[arg-type]
        assert_equal(model.state_dict(), expected.model.state_dict())
        with torch.no_grad():
            if impl == "auto":
                assert torch.equal(model.eval().generate(z, c), expected.model.generate(z, c))
            torch.testing.assert_close(model.eval().generate(z, c), expected.model.generate(z, c))
    assert not torch.equal(method.ema.model.generator.project.weight, method.model.generator.project.weight), (
        "the run is too short to tell the two apart"
    )


@pytest.mark.parametrize("names", CHANGES.values(), ids=list(CHANGES))
@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_attributes_are_matched_by_name(
    tiny: dict[str, Any], old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, impl: str, names: tuple[str, ...]
) -> None:
    """By hand, from what the layers do: the columns of labels behind those of z, all columns of FiLM, the rows of C."""
    config = beginning(tiny, tmp_path / "new", old, impl=impl, attributes=names)
    method = at_start(config, monkeypatch)
    saved = load_checkpoint(find_checkpoint(old).folder).tensors
    torch.manual_seed(5)
    drawn = (models if impl == "auto" else reference).IterativeGAN(**method.model.arguments()).state_dict()
    for group, model in (("model", method.model), ("ema", method.ema.model)):
        found = model.state_dict()
        for name, tensor in found.items():
            before = saved[group][name]
            if name == "generator.project.weight":
                assert torch.equal(tensor[:, :5], before[:, :5])
                columns = [(tensor[:, 5 + i], before[:, 5:], drawn[name][:, 5 + i]) for i in range(len(names))]
            elif name.startswith("generator.film"):
                columns = [(tensor[:, i], before, drawn[name][:, i]) for i in range(len(names))]
            elif name in ("classifier.labels.weight", "classifier.labels.bias"):
                columns = [(tensor[i], before.movedim(0, -1), drawn[name][i]) for i in range(len(names))]
            else:
                assert torch.equal(tensor, before), name
                continue
            for attribute, (column, olds, fresh) in zip(names, columns, strict=True):
                expected = olds[..., OLD.index(attribute)] if attribute in OLD else fresh
                assert torch.equal(column, expected), (name, attribute)


@pytest.mark.parametrize("group", ["permuted", "added"])
def test_a_new_attribute_that_says_nothing_changes_no_image(
    tiny: dict[str, Any], old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str
) -> None:
    """G reads 2c − 1, so a label of 0.5 adds nothing; C's verdicts on the old attributes stay too."""
    names = CHANGES[group]
    model = at_start(beginning(tiny, tmp_path / "new", old, attributes=names), monkeypatch).ema.model.eval()
    before = load_model(old).model
    z, c, photos = torch.rand(6, 5) * 2 - 1, torch.rand(6, 4), torch.rand(6, 3, 32, 32) * 2 - 1
    new = torch.full((6, len(names)), 0.5)
    for index, name in enumerate(names):
        if name in OLD:
            new[:, index] = c[:, OLD.index(name)]
    with torch.no_grad():
        torch.testing.assert_close(model.generate(z, new), before.generate(z, c))
        logits, expected = model.encode(photos).label_logits, before.encode(photos).label_logits
    known = [index for index, name in enumerate(names) if name in OLD]
    torch.testing.assert_close(logits[:, known], expected[:, [OLD.index(names[index]) for index in known]])


def test_axes_are_those_that_read_or_tell_attributes() -> None:
    arguments = IterativeGAN(32, 3, 5, 2, film=True).arguments()
    axes = attribute_axes(ModelDescription(arguments, ("a", "b", "c"), []))
    assert {name: found for name, found in axes.items() if found} == {
        "generator.project.weight": (1,), "classifier.labels.weight": (0,), "classifier.labels.bias": (0,),
        **{f"generator.film.{layer}.weight": (1,) for layer in range(4)},
    }  # fmt: skip
    assert set(axes) == set(IterativeGAN(**arguments).state_dict())


@pytest.mark.parametrize(
    "sizes", [lambda a: (2 * a, 3), lambda a: (3,) * a, lambda a: (a * a,)], ids=["twice", "dimensions", "square"]
)
def test_networks_that_cannot_be_matched_are_a_defect(sizes: Callable[[int], Sequence[int]]) -> None:
    class Odd:
        arguments: dict[str, Any] = {}  # noqa: RUF012
        attributes = ("a", "b", "c")

        def on_meta(self, attributes: int | None = None) -> torch.nn.Module:
            module = torch.nn.Module()
            module.register_buffer("odd", torch.empty(*sizes(attributes or 3), device="meta"))
            return module

    with pytest.raises(TypeError, match="odd "):
        attribute_axes(Odd())


def test_an_axis_and_two_axes_are_matched() -> None:
    old, fresh = torch.arange(12.0).reshape(3, 4), -torch.arange(1.0, 21).reshape(4, 5)
    # Both axes end with attributes: one other entry and a, b; two other entries and a, b.
    found = matched(old, fresh, (0, 1), ("a", "b"), ("b", "new", "a"))
    expected = fresh.clone()
    for new_row, old_row in ((0, 0), (1, 2), (3, 1)):
        for new_column, old_column in ((0, 0), (1, 1), (2, 3), (4, 2)):
            expected[new_row, new_column] = old[old_row, old_column]
    assert torch.equal(found, expected)
    assert torch.equal(fresh, -torch.arange(1.0, 21).reshape(4, 5))


@pytest.mark.parametrize("method", BASELINES)
@pytest.mark.parametrize("names", [CHANGES["permuted"], CHANGES["added"]], ids=["permuted", "added"])
def test_every_baseline_computes_what_it_did(method: BaselineName, names: tuple[str, ...]) -> None:
    """Labels of 0 say nothing to a baseline, so those of new attributes change nothing. It holds only if the labels are
    the last inputs of each layer that reads them, as ``matched`` takes for granted."""
    if method == "cyclegan":
        names = OLD[:1]
    old_names = OLD[:1] if method == "cyclegan" else OLD
    torch.manual_seed(0)
    kind = baseline(method).networks
    before, after = (kind(32, len(each), width=4).eval() for each in (old_names, names))
    arguments = {"image_size": 32, "attributes": len(old_names), "width": 4}
    initial = Initial(BaselineDescription(method, arguments, old_names), {"model": before.state_dict()}, Path("x"))
    after.load_state_dict(initial.fitted(after.state_dict(), names)["model"])
    old_labels = torch.rand(4, len(old_names)).round()
    labels = torch.zeros(4, len(names))
    for index, name in enumerate(names):
        if name in old_names:
            labels[:, index] = old_labels[:, old_names.index(name)]
    photos = torch.rand(4, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        if before.edits:
            torch.testing.assert_close(
                after.edit(photos, labels, {names.index("Smiling"): 1.0}), before.edit(photos, old_labels, {0: 1.0})
            )
        else:
            z = before.draw_noise(4, torch.Generator().manual_seed(1))
            torch.testing.assert_close(after.generate(z, labels), before.generate(z, old_labels))
        if method == "cgan":
            torch.testing.assert_close(after.discriminator(photos, labels), before.discriminator(photos, old_labels))
        if method in ("acgan", "stargan"):
            found, expected = after.discriminator(photos)[1], before.discriminator(photos)[1]
            shared = [names.index(name) for name in old_names]
            torch.testing.assert_close(found[:, shared], expected)


@pytest.mark.parametrize("method", BASELINES)
def test_a_baseline_starts_from_another_run_of_its_own(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: BaselineName
) -> None:
    before = train(baseline_config(tiny, tmp_path / "old", method)).checkpoint
    config = baseline_config(tiny, tmp_path / "new", method, init=tmp_path / "old", seed=3)
    assert (config.image_size, config.width) == (32, 4)
    started = at_start(config, monkeypatch)
    assert_equal(dict(started.networks.state_dict()), load_checkpoint(before).tensors["model"])
    assert train(config).iteration == 1
