"""Generating and rebuilding faces at 128²: 64 at once, as in the paper's Table 2 (2.16 s and 3.23 s on a GTX 1070 Ti),
and one alone, as where a photo is edited: the same network again and again, so several calls in a row are timed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import igan_fast
from bench import core
from bench.runtimes import runtime_peers
from igan_fast import reference
from igan_fast.devices import has_bfloat16

PAPER_SECONDS = {"generate": 2.16, "rebuild": 3.23}


class _Task(nn.Module):
    """A method of a model as a network of its own, for the runtimes that record ``forward``."""

    def __init__(self, model: reference.IterativeGAN, task: str) -> None:
        super().__init__()
        self.model, self.task = model, task

    def forward(self, *inputs: Tensor) -> Tensor:
        result: Tensor = getattr(self.model, self.task)(*inputs)
        return result


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("count", [64, 1])
@pytest.mark.parametrize("task", list(PAPER_SECONDS))
def test_inference(compare, request, device, task, count, precision):
    torch._dynamo.reset()
    if precision == "bf16" and device.type == "cpu" and not has_bfloat16():
        pytest.skip("this CPU has no bfloat16 instructions")
    quick = request.config.getoption("--quick")
    size, width, count = (32, 4, min(count, 4)) if quick else (128, 64, count)
    images = torch.rand(count, 3, size, size, device=device) * 2 - 1
    z, c = torch.rand(count, 100, device=device) * 2 - 1, torch.rand(count, 40, device=device)
    inputs = (z, c) if task == "generate" else (images,)

    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")

    def model_of(module) -> reference.IterativeGAN:
        torch.manual_seed(0)
        return module.IterativeGAN(image_size=size, width=width).to(device).eval()

    def peer(module, *, frozen: bool = False, channels_last: bool = False, compile: bool = False) -> core.Peer:
        model, given = model_of(module), inputs
        if frozen:
            igan_fast.freeze(model)
        if channels_last:
            layout = {"memory_format": torch.channels_last}
            model = model.to(**layout)
            given = tuple(t.contiguous(**layout) if t.dim() == 4 else t for t in inputs)
        run = getattr(model, task)
        if compile:
            model.generator.compile(), model.discriminator.compile(), model.classifier.compile()

        def forward() -> torch.Tensor:
            with torch.no_grad() if compile else torch.inference_mode(), autocast:
                return run(*given)

        return forward, None

    peers = {
        "ours": peer(igan_fast, frozen=True),
        "ours, not frozen": peer(igan_fast),
        "eager, contiguous": peer(reference),
        "eager, channels_last": peer(reference, channels_last=True),
        "compile, channels_last": peer(reference, channels_last=True, compile=True),
    }
    if device.type == "cpu":
        network = _Task(model_of(reference), task).eval()
        peers |= runtime_peers(network, inputs, torch.get_num_threads(), precision)
    subject = {
        "kind": "inference",
        "operator": f"{task} {count} at {size}²",
        "layout": "",
        "dtype": precision,
        "batch": count,
    }
    is_papers = count == 64 and precision == "fp32"
    in_a_row = 20 if count == 1 and not quick else 1
    compare(subject | ({"paper_ms": PAPER_SECONDS[task] * 1e3} if is_papers else {}), peers, {}, in_a_row=in_a_row)
