"""Ways of calling with gradients switched on or off around some of the calls, and with checkpoints."""

from __future__ import annotations

import torch
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from ways.calls import normed


def under(context, part):
    """A way that makes the calls named in ``part`` within the context."""

    def way(net, x):
        for name in ("conv", "norm", "act"):
            if name in part.split():
                with context():
                    x = getattr(net, name)(x)
            else:
                x = getattr(net, name)(x)
        return x

    return way


def checkpointed(part, **options):
    def way(net, x):
        if part == "all":
            return checkpoint(net, x, **options)
        if part == "norm and act":
            return checkpoint(lambda h: net.act(net.norm(h)), net.conv(x), **options)
        if part == "conv and norm":
            return net.act(checkpoint(lambda h: net.norm(net.conv(h)), x, **options))
        for name in ("conv", "norm", "act"):
            module = getattr(net, name)
            x = checkpoint(module, x, **options) if name == part else module(x)
        return x

    return way


def _switched(net, x):
    before = torch.is_grad_enabled()
    y = normed(net, x)
    torch.set_grad_enabled(not before)
    try:
        return net.act(y)
    finally:
        torch.set_grad_enabled(before)


MODES = {
    **{
        f"{part} under no_grad": under(torch.no_grad, part) for part in ("conv", "norm", "act", "conv norm", "norm act")
    },
    **{f"{part} under enable_grad": under(torch.enable_grad, part) for part in ("conv", "norm", "act", "conv norm")},
    **{f"{part} under inference": under(torch.inference_mode, part) for part in ("conv", "norm", "act", "norm act")},
    **{
        f"{part} under set_grad_enabled(False)": under(lambda: torch.set_grad_enabled(False), part)
        for part in ("conv", "norm", "act")
    },
    "norm and activation one after another under no_grad": under(torch.no_grad, "norm act"),
    "out of inference mode": under(lambda: torch.inference_mode(False), "norm act"),
    "grad mode switched between norm and act": _switched,
    **{
        f"checkpoint of {part}, {'' if reentrant else 'not '}reentrant": checkpointed(part, use_reentrant=reentrant)
        for part in ("conv", "norm", "act", "conv and norm", "norm and act", "all")
        for reentrant in (True, False)
    },
    "checkpoint within a checkpoint": lambda net, x: checkpoint(
        lambda h: checkpoint(net.act, checkpoint(normed, net, h, use_reentrant=False), use_reentrant=False),
        x,
        use_reentrant=False,
    ),
    "checkpoint of a sequential": lambda net, x: checkpoint_sequential(
        [net.conv, net.norm, net.act], 2, x, use_reentrant=False
    ),
}
