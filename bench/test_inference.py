"""Generating and rebuilding 64 faces at 128², as in the paper's Table 2 (2.16 s and 3.23 s on a GTX 1070 Ti)."""

from __future__ import annotations

import pytest
import torch

import igan_fast
from bench import core
from igan_fast import reference

PAPER_SECONDS = {"generate": 2.16, "rebuild": 3.23}


@pytest.mark.parametrize("task", list(PAPER_SECONDS))
def test_inference(compare, request, device, task):
    torch._dynamo.reset()
    quick = request.config.getoption("--quick")
    size, width, count = (32, 4, 4) if quick else (128, 64, 64)
    images = torch.rand(count, 3, size, size, device=device) * 2 - 1
    z, c = torch.rand(count, 100, device=device) * 2 - 1, torch.rand(count, 40, device=device)
    layout = {"memory_format": torch.channels_last}

    def peer(module, *, channels_last: bool = False, compile: bool = False) -> core.Peer:
        torch.manual_seed(0)
        model = module.IterativeGAN(image_size=size, width=width).to(device).eval()
        x = images
        if channels_last:
            model, x = model.to(**layout), images.contiguous(**layout)
        run = (lambda: model.generate(z, c)) if task == "generate" else (lambda: model.rebuild(x))
        if compile:
            model.generator.compile(), model.discriminator.compile(), model.classifier.compile()

        def forward() -> torch.Tensor:
            with torch.no_grad() if compile else torch.inference_mode():
                return run()

        return forward, None

    compare(
        {
            "kind": "inference",
            "operator": f"{task} {count} at {size}²",
            "layout": "",
            "dtype": "fp32",
            "batch": count,
            "paper_ms": PAPER_SECONDS[task] * 1e3,
        },
        {
            "ours": peer(igan_fast),
            "eager, contiguous": peer(reference),
            "eager, channels_last": peer(reference, channels_last=True),
            "compile, channels_last": peer(reference, channels_last=True, compile=True),
        },
        {},
    )
