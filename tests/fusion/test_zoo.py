"""``fuse`` on the networks of the zoo, which are written as in well-known repositories."""

from __future__ import annotations

import itertools

import pytest
import torch
from fused_networks import assert_alike, outputs_of
from oracles import error
from torch import nn
from zoo import NETWORKS

import igan_fast
from igan_fast import ops

NORM_CLASSES = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)

#: Normalisations whose plain result is also used by something else, before the (Leaky)ReLU.
NOT_JOINED = {"constructed": 1, "wanted_layers": 1}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_the_zoo(name):
    network = NETWORKS[name]
    (fused, inputs), (plain, _) = network.make(torch.float64), network.make(torch.float64)
    keys = list(fused.state_dict())
    parameters, buffers = dict(fused.named_parameters()), dict(fused.named_buffers())
    modules = dict(fused.named_modules(remove_duplicate=False))
    report = igan_fast.fuse(fused)
    assert list(fused.state_dict()) == keys
    assert dict(fused.named_modules(remove_duplicate=False)) == modules
    assert all(p is parameters[n] for n, p in fused.named_parameters())
    assert all(b is buffers[n] for n, b in fused.named_buffers())
    for training in (True, True, False, False):  # what a module learns in the first call has its effect in the second
        fused.train(training), plain.train(training)
        assert_alike(fused, plain, inputs, network.calls.values())
        for context in (torch.no_grad, torch.inference_mode):
            with context():
                for a, e in zip(outputs_of(fused, inputs), outputs_of(plain, inputs), strict=True):
                    assert error(a, e) < 1e-9
                    assert a.stride() == e.stride()
    if ops.backends()["native-cpu"] == "available":
        activated = sum("LU" in entry.result for entry in report)
        assert activated >= count_activations_after_norms(network, modules) - NOT_JOINED.get(name, 0)
    plain.load_state_dict(fused.state_dict())
    igan_fast.unfuse(fused)
    assert [type(m).__qualname__ for m in fused.modules()] == [type(m).__qualname__ for m in plain.modules()]
    assert not any(type(m).__module__.startswith("igan_fast.fusion") for m in fused.modules())
    for a, e in zip(outputs_of(fused, inputs), outputs_of(plain, inputs), strict=True):
        assert torch.equal(a, e)


def count_activations_after_norms(network, modules: dict[str, nn.Module]) -> int:
    """How many of PyTorch's normalisations are followed by a (Leaky)ReLU, according to the zoo."""
    norms = set()
    for chain in network.chains:
        kinds = [modules.get(name) for name in chain]
        for norm, act in itertools.pairwise(kinds):
            if isinstance(norm, NORM_CLASSES) and isinstance(act, nn.ReLU | nn.LeakyReLU):
                norms.add(id(norm))
    return len(norms)
