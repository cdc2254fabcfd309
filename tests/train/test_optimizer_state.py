"""The optimiser's state by name: exact, independent of the parameters' order, refused where it does not fit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from igan_fast.checkpoint import load_checkpoint
from igan_fast.errors import InputError
from igan_fast.train.optimizer_state import load_optimizer_tensors, optimizer_to_tensors
from igan_fast.train.save import save_checkpoint


def net() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 2))
    return layers.to(memory_format=torch.channels_last)


def adam(model: nn.Module, **settings: object) -> torch.optim.Adam:
    return torch.optim.Adam(model.parameters(), lr=1e-2, betas=(0.5, 0.999), **settings)  # type: ignore[arg-type]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, seeds: range) -> None:
    for seed in seeds:
        optimizer.zero_grad()
        images = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
        model(images).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("settings", [{}, {"amsgrad": True}, {"fused": True}, {"foreach": False}])
def test_a_resumed_optimiser_goes_on_bit_for_bit(tmp_path: Path, settings: dict[str, object]) -> None:
    whole = net()
    train(whole, adam(whole, **settings), range(6))

    stopped = net()
    optimizer = adam(stopped, **settings)
    train(stopped, optimizer, range(3))
    state = optimizer_to_tensors(optimizer, stopped.named_parameters())
    folder = save_checkpoint(tmp_path, 3, {"model": stopped.state_dict(), "optimizer": state}, {})

    loaded = load_checkpoint(folder).tensors
    resumed = net()
    resumed.load_state_dict(loaded["model"])
    fresh = adam(resumed, **settings)
    load_optimizer_tensors(fresh, resumed.named_parameters(), loaded["optimizer"])
    moment = fresh.state[resumed[0].weight]["exp_avg"]
    assert moment.stride() == resumed[0].weight.stride()
    train(resumed, fresh, range(3, 6))
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_names_and_settings() -> None:
    model = net()
    optimizer = adam(model)
    assert optimizer_to_tensors(optimizer, model.named_parameters()) == {}
    train(model, optimizer, range(2))
    tensors = optimizer_to_tensors(optimizer, model.named_parameters())
    names = [name for name, _ in model.named_parameters()]
    assert set(tensors) == {f"{name}/{key}" for name in names for key in ("step", "exp_avg", "exp_avg_sq")}
    assert tensors["0.weight/step"] == 2
    other = torch.optim.Adam(model.parameters(), lr=0.5)
    load_optimizer_tensors(other, model.named_parameters(), copy.deepcopy(tensors))
    assert other.param_groups[0]["lr"] == 0.5
    assert other.param_groups[0]["betas"] == (0.9, 0.999)


def test_the_order_of_the_parameters_does_not_matter() -> None:
    model = net()
    optimizer = adam(model)
    train(model, optimizer, range(2))
    tensors = optimizer_to_tensors(optimizer, model.named_parameters())
    groups = [{"params": [model[3].bias]}, {"params": [model[3].weight, model[0].weight]}]
    part = torch.optim.Adam(groups)
    wanted = {name: t for name, t in tensors.items() if name.split("/")[0] in ("3.bias", "3.weight", "0.weight")}
    load_optimizer_tensors(part, reversed(list(model.named_parameters())), wanted)
    for parameter in (model[3].bias, model[3].weight, model[0].weight):
        for key in ("step", "exp_avg", "exp_avg_sq"):
            assert torch.equal(part.state[parameter][key], optimizer.state[parameter][key])


def test_what_does_not_fit_is_refused() -> None:
    model = net()
    optimizer = adam(model)
    with pytest.raises(InputError, match=r"'5\.weight/exp_avg' belongs to no parameter"):
        load_optimizer_tensors(optimizer, model.named_parameters(), {"5.weight/exp_avg": torch.zeros(2)})
    with pytest.raises(InputError, match=r"shape \(3,\), its parameter \(2,\)"):
        load_optimizer_tensors(optimizer, model.named_parameters(), {"3.bias/exp_avg": torch.zeros(3)})
    assert not optimizer.state
    with pytest.raises(ValueError, match=r"shape \(4, 3, 3, 3\) in the optimiser has no name"):
        optimizer_to_tensors(optimizer, [])
    train(model, optimizer, range(1))
    optimizer.state[model[3].bias]["step"] = 1
    with pytest.raises(TypeError, match="'step'"):
        optimizer_to_tensors(optimizer, model.named_parameters())


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.clear(), r"'0\.weight/step' is missing"),
        (lambda t: t.pop("3.bias/exp_avg"), r"'3\.bias/exp_avg' is missing"),
        (lambda t: [t.pop(name) for name in list(t) if name.startswith("3.bias/")], r"'3\.bias/exp_avg' is missing"),
        (lambda t: t.update({"3.bias/step": torch.tensor(1)}), r"'3\.bias/step' is torch\.int64 of shape \(\)"),
        (lambda t: t.update({"3.bias/step": torch.ones(2)}), r"'3\.bias/step' is torch\.float32 of shape \(2,\)"),
        (lambda t: t.update({"3.bias/step": torch.tensor(-1.0)}), r"'3\.bias/step' is -1\.0, expected a whole number"),
        (lambda t: t.update({"3.bias/step": torch.tensor(float("nan"))}), r"'3\.bias/step' is nan"),
        (lambda t: t.update({"3.bias/exp_avg": torch.tensor(0.0)}), r"shape \(\), its parameter \(2,\)"),
        (lambda t: t.update({"3.bias/exp_avg": torch.zeros(2, dtype=torch.int64)}), r"is torch\.int64, its parameter"),
        (lambda t: t.update({"3.bias/exp_avg": torch.zeros(2, dtype=torch.cfloat)}), r"is torch\.complex64, its"),
        (lambda t: t.update({"3.bias/exp_avg": torch.tensor([0.0, float("inf")])}), r"exp_avg' holds inf, expected"),
        (lambda t: t.update({"3.bias/exp_avg_sq": torch.tensor([0.0, -1.0])}), r"exp_avg_sq' holds -1\.0, expected no"),
    ],
)
def test_a_state_that_no_optimiser_keeps_is_refused(
    edit: Callable[[dict[str, torch.Tensor]], Any], message: str
) -> None:
    model = net()
    optimizer = adam(model)
    train(model, optimizer, range(1))
    tensors = {
        name: tensor.clone() for name, tensor in optimizer_to_tensors(optimizer, model.named_parameters()).items()
    }
    fresh = adam(model)
    load_optimizer_tensors(fresh, model.named_parameters(), dict(tensors))
    edit(tensors)
    fresh = adam(model)
    with pytest.raises(InputError, match=message) as caught:
        load_optimizer_tensors(fresh, model.named_parameters(), tensors, where="step/optimizer_d.safetensors")
    assert str(caught.value).startswith("step/optimizer_d.safetensors: ")
    assert not fresh.state
