"""The average of the weights against numbers worked out by hand, and its exact resume."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from igan_fast.errors import InputError
from igan_fast.reference.models import IterativeGAN
from igan_fast.train.ema import EMA


def moved(model: nn.Module, seed: int) -> None:
    """Change every entry of the state, integers too."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=torch.float64))
        else:
            tensor.add_(seed)


@pytest.fixture
def model() -> IterativeGAN:
    torch.manual_seed(0)
    return IterativeGAN(image_size=32, attributes=3, latent=5, width=2)


@pytest.mark.parametrize("decay", [0.999, 0.2, 0.0])
def test_average_by_hand(model: IterativeGAN, decay: float) -> None:
    ema = EMA(model, decay=decay)
    expected = {name: tensor.double().clone() for name, tensor in model.state_dict().items()}
    for count in range(12):
        moved(model, count + 1)
        ema.update()
        keep = min(decay, (1 + count) / (10 + count))  # 1/10, 2/11, 3/12 …
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                expected[name] = keep * expected[name] + (1 - keep) * tensor.double()
            else:
                expected[name] = tensor.double()
    assert ema.count == 12
    found = ema.model.state_dict()
    assert any(not tensor.is_floating_point() for tensor in found.values())
    assert any("running_var" in name for name in found)
    for name, tensor in found.items():
        torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-5, atol=1e-6)


def test_the_average_is_apart_from_the_model_and_ready_to_use(model: IterativeGAN) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ema = EMA(model)
    moved(model, 1)
    for name, tensor in ema.model.state_dict().items():
        assert torch.equal(tensor, before[name])
    ema.update()
    assert isinstance(ema.model, IterativeGAN)
    assert not any(module.training for module in ema.model.modules())
    assert not any(parameter.requires_grad for parameter in ema.model.parameters())
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    after = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ema.update()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, after[name])


def test_resume_is_bit_for_bit(model: IterativeGAN) -> None:
    whole = EMA(model, decay=0.9)
    stopped = EMA(model, decay=0.9)
    for seed in range(1, 11):
        if seed == 6:
            state = stopped.state_dict()
            copy = {"count": state["count"], "model": {name: t.clone() for name, t in state["model"].items()}}
            moved(stopped.model, 99)  # what the resumed process would have before it loads
            stopped = EMA(model, decay=0.9)
            stopped.load_state_dict(copy)
        moved(model, seed)
        whole.update()
        stopped.update()
    assert stopped.count == whole.count == 10
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, stopped.model.state_dict()[name])


def test_mixed_dtypes() -> None:
    model = nn.ModuleDict({"low": nn.Linear(2, 2), "high": nn.Linear(2, 2).double()})
    ema = EMA(model, decay=0.5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
        for parameter in ema.model.parameters():
            parameter.fill_(0.0)
    ema.update()
    for parameter in ema.model.parameters():
        assert torch.equal(parameter, torch.full_like(parameter, 0.9))  # 1 − 1/10 of the new


@pytest.mark.parametrize("decay", [1.0, -0.1, float("nan")])
def test_bad_decay(model: IterativeGAN, decay: float) -> None:
    with pytest.raises(InputError, match="EMA decay"):
        EMA(model, decay=decay)
