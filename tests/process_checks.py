"""Checks that run in several processes at once, which ``ops/test_processes.py`` starts: normalisation of the batches of
all processes against one process that has the whole batch.

Each check yields names and errors; an error is 0 where nothing differs. All processes make the same calls.
"""

from __future__ import annotations

import copy
import datetime
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from operator_counts import operators, ours
from oracles import HALF, assert_as_good, error
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import igan_fast
from igan_fast import layers, losses, ops
from igan_fast.fusion import fused_module
from igan_fast.ops import backend
from igan_fast.reference import layers as plain_layers
from igan_fast.reference import losses as plain_losses
from igan_fast.reference import ops as reference

PROCESSES = 4
#: Images of each process in each part of the batch, by the number of processes. One process has none.
SIZES = {2: (2, 4), 4: (1, 2, 0, 3)}
PART = 6  # images in a part of the whole batch

Errors = Iterator[tuple[str, float]]


class Member(NamedTuple):
    """This process in a group."""

    group: Any
    rank: int
    size: int

    def own(self, groups: int) -> Tensor:
        """The images of the whole batch, (groups · PART), that this process has."""
        sizes = SIZES[self.size]
        start = sum(sizes[: self.rank])
        own = torch.arange(start, start + sizes[self.rank])
        return torch.cat([own + group * PART for group in range(groups)])

    def sum(self, t: Tensor) -> Tensor:
        t = t.detach().clone()
        dist.all_reduce(t, group=self.group)
        return t


CHECKS: list[Callable[[Member], Errors]] = []


def check(function: Callable[[Member], Errors]) -> Callable[[Member], Errors]:
    CHECKS.append(function)
    return function


def main(rank: int, folder: Path) -> None:
    """Run all checks in this process; write the errors to a file."""
    torch.set_num_threads(1)
    fused_module.MIN_ELEMENTS = 0  # small tensors are fused too
    store = f"file://{folder / 'store'}"
    wait = datetime.timedelta(seconds=300)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=PROCESSES, timeout=wait)
    pair = dist.new_group([0, 1])
    members = [Member(dist.group.WORLD, rank, PROCESSES)] + ([Member(pair, rank, 2)] if rank < 2 else [])
    found: dict[str, float] = {}
    for member in members:
        for function in CHECKS:
            for name, value in function(member):
                key = f"{function.__name__}, {member.size} processes, {name}"
                found[key] = max(value, found.get(key, 0.0))
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def implementations() -> dict[str, tuple[Any, dict[str, Any]]]:
    found: dict[str, tuple[Any, dict[str, Any]]] = {"reference": (reference, {}), "auto": (ops, {})}
    if backend.has_native_cpu():
        found["native"] = ops, {"impl": "native"}
    return found


def far(actual: Sequence[Tensor | None], expected: Sequence[Tensor | None]) -> float:
    """The largest error of the tensors, each relative to its own size."""
    return max(error(a, e) for a, e in zip(actual, expected, strict=True) if a is not None and e is not None)


def norm(
    module: Any, x: Tensor, others: Sequence[Tensor | None], grad: Tensor, *, twice: bool = False, **options: Any
) -> list[list[Tensor]]:
    """The results that hold a row for each image (y, dx, dfilm, and the second derivative of x); the gradients of the
    parameters; the running statistics."""
    leaves = [None if t is None else t.clone().requires_grad_() for t in (x, *others)]
    x, weight, bias, film = leaves
    kept = [torch.zeros(x.shape[1], dtype=torch.float64), torch.ones(x.shape[1], dtype=torch.float64)]
    kept = [t.to(torch.float32 if x.dtype in HALF else x.dtype) for t in kept]
    y = module.norm_act(x, weight, bias, *kept, film=film, **options)
    wanted = [t for t in leaves if t is not None]
    found = dict(zip(map(id, wanted), torch.autograd.grad(y, wanted, grad, create_graph=twice), strict=True))
    dx, dweight, dbias, dfilm = (None if t is None else found[id(t)] for t in leaves)
    rows, parameters = [y, dx, dfilm], [dweight, dbias]
    if twice:
        penalty = dx.square().sum() + 2 * dfilm.square().sum()
        second = dict(zip(map(id, wanted), torch.autograd.grad(penalty, wanted, materialize_grads=True), strict=True))
        rows += [second[id(x)], second[id(film)]]
        parameters += [second[id(weight)], second[id(bias)]]
    return [[t for t in some if t is not None] for some in (rows, parameters, kept)]


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "ReLU": {"negative_slope": 0.0, "momentum": 0.3, "eps": 1e-3},
    "averaged groups": {"average_groups": True},
    "no running statistics": {"training": False},
}


@check
def norm_act_equals_one_process(member: Member) -> Errors:
    for groups in (1, 2):
        own, count = member.own(groups), PART * groups
        x, grad = randn(count, 5, 4, 3) * 2 + 100, randn(count, 5, 4, 3, seed=1)
        affine, film = (randn(5, seed=2), randn(5, seed=3)), randn(count, 10, seed=4)
        cases = {name: ((*affine, film), settings) for name, settings in SETTINGS.items()}
        cases |= {"no film": ((*affine, None), {}), "no parameters": ((None, None, None), {})}
        for name, (others, settings) in cases.items():
            options = {"groups": groups, **settings}
            whole = norm(reference, x, others, grad, **options)
            parts = [t[own] if t is not None and len(t) == count else t for t in others]
            for impl, (module, choice) in implementations().items():
                for layout in (torch.contiguous_format, torch.channels_last):
                    mine = x[own].contiguous(memory_format=layout)
                    rows, parameters, kept = norm(
                        module, mine, parts, grad[own], process_group=member.group, **options, **choice
                    )
                    if settings.get("training", True):
                        everywhere = [torch.empty_like(kept[0]) for _ in range(member.size)]
                        dist.all_gather(everywhere, kept[1], group=member.group)
                        yield f"{impl}, the same bits everywhere", float(not all(t.equal(kept[1]) for t in everywhere))
                    if len(own) and layout is torch.channels_last:
                        yield f"{impl}, memory format", float(rows[0].stride() != mine.stride())
                    actual = [*rows, *map(member.sum, parameters), *kept]
                    expected = [*(t[own] for t in whole[0]), *whole[1], *whole[2]]
                    yield f"{impl}, {name}, {groups} groups, {layout}", far(actual, expected)


@check
def second_derivatives_equal_those_of_one_process(member: Member) -> Errors:
    """Of a penalty of the gradients of the images and of film, which is the sum of the processes' penalties."""
    for groups in (1, 2):
        own, count = member.own(groups), PART * groups
        x, grad, film = randn(count, 3, 4), randn(count, 3, 4, seed=1), randn(count, 6, seed=4)
        affine = randn(3, seed=2), randn(3, seed=3)
        whole = norm(reference, x, (*affine, film), grad, twice=True, groups=groups)
        expected = [*(t[own] for t in whole[0]), *whole[1]]
        for impl, (module, choice) in implementations().items():
            rows, parameters, _ = norm(
                module, x[own], (*affine, film[own]), grad[own], twice=True, groups=groups,
                process_group=member.group, **choice,
            )  # fmt: skip
            yield f"{impl}, {groups} groups", far([*rows, *map(member.sum, parameters)], expected)


@check
def half_types_follow_the_rule(member: Member) -> Errors:
    own = member.own(2)
    for dtype in (*HALF, torch.float32):
        wide = torch.float32
        x, grad = (randn(2 * PART, 5, 8, 8) + 2).to(dtype), randn(2 * PART, 5, 8, 8, seed=1).to(dtype)
        others = (randn(5, seed=2).to(wide), randn(5, seed=3).to(wide), randn(2 * PART, 10, seed=4).to(wide))
        plain = norm(reference, x, others, grad, groups=2)
        exact = norm(reference, x.double(), [t.double() for t in others], grad.double(), groups=2)
        mine = (x[own], (*others[:2], others[2][own]), grad[own])
        for impl, (module, choice) in implementations().items():
            rows, parameters, kept = norm(module, *mine, groups=2, process_group=member.group, **choice)
            actual = [*rows, *map(member.sum, parameters), *kept]
            expected = [[*(t[own] for t in some[0]), *some[1], *some[2]] for some in (plain, exact)]
            try:
                assert_as_good(actual, *expected, dtype)
            except AssertionError as reason:
                yield f"{impl}, {dtype}: {reason}", 1.0


@check
def far_from_zero_and_infinite(member: Member) -> Errors:
    own = member.own(1)
    x, grad = randn(PART, 3, 16, 16) + 1e4, randn(PART, 3, 16, 16, seed=1)
    whole = norm(reference, x.float().double(), (None, None, None), grad)
    spoilt = x.clone()
    spoilt[0, 0, 0, 0], spoilt[5, 1, 2, 2] = float("inf"), float("nan")
    spoilt_whole = norm(reference, spoilt, (None, None, None), grad)
    for impl, (module, choice) in implementations().items():
        options = {"process_group": member.group, **choice}
        rows, _, kept = norm(module, x[own].float(), (None, None, None), grad[own].float(), **options)
        yield f"{impl}, float32, far from zero", far([rows[0], *kept], [whole[0][0][own], *whole[2]]) * 1e-7  # 1e-3
        rows, _, kept = norm(module, spoilt[own], (None, None, None), grad[own], **options)
        yield f"{impl}, inf and NaN", far([rows[0], *kept], [spoilt_whole[0][0][own], *spoilt_whole[2]])


CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "conv": {},
    "conv with a bias": {"conv_bias": randn(6, seed=8), "stride": 1},
    "transposed": {"transposed": True, "output_padding": 1},
}


@check
def conv_norm_act_equals_one_process(member: Member) -> Errors:
    own = member.own(2)
    x, kernel, weight, bias = (randn(2 * PART, 6, 8, 8), randn(6, 6, 5, 5, seed=1), randn(6, seed=2), randn(6, seed=3))

    def run(module: Any, x: Tensor, images: Tensor, **options: Any) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        leaves = [t.clone().requires_grad_() for t in (x, kernel, weight, bias)]
        kept = torch.zeros(6, dtype=torch.float64), torch.ones(6, dtype=torch.float64)
        y = module.conv_norm_act(*leaves, *kept, groups=2, **options)
        grad = randn(2 * PART, *y.shape[1:], seed=5)[images]
        dx, *parameters = torch.autograd.grad(y, leaves, grad)
        return [y, dx], parameters, list(kept)

    for name, settings in CONVOLUTIONS.items():
        rows, parameters, kept = run(reference, x, torch.arange(2 * PART), **settings)
        expected = [*(t[own] for t in rows), *parameters, *kept]
        for impl, (module, choice) in implementations().items():
            rows, parameters, kept = run(module, x[own], own, process_group=member.group, **settings, **choice)
            yield f"{impl}, {name}", far([*rows, *map(member.sum, parameters), *kept], expected)


@check
def conv_norm_act_takes_the_convolution_of_one_process(member: Member) -> Errors:
    """With the statistics of all, convolution and gradients are those that are taken without."""
    images = len(member.own(1))
    x, kernel = (t.float().requires_grad_() for t in (randn(max(images, 1), 32, 32, 32), randn(32, 32, 3, 3)))

    def counted(**options: Any) -> dict[str, int]:
        def run(_: None, x: Tensor) -> Tensor:
            affine = torch.ones(32), torch.zeros(32)
            return ops.conv_norm_act(x, kernel, *affine, None, None, stride=1, padding=1, **options)

        found = ours(operators(None, run, x, backward=True))
        return {name: count for name, count in found.items() if "conv" in name}

    alone, together = counted(), counted(process_group=member.group)
    yield f"{alone} alone, {together} together", float(alone != together)
    yield "the fused operators compute it", float(backend.has_native_cpu() and not alone)


def train(network: nn.Module, images: Tensor, loss: Callable[[Tensor], Tensor], *, steps: int = 3) -> list[Tensor]:
    """Parameters and buffers after some steps, and the outputs of the last one."""
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        y = network(images)
        loss(y).backward()
        optimizer.step()
    module = network.module if isinstance(network, DistributedDataParallel) else network
    return [y.detach(), *(t.detach().double() for t in module.state_dict().values())]


def torch_network(norm_type: Callable[[int], nn.Module]) -> nn.Sequential:
    torch.manual_seed(0)
    parts = [nn.Conv2d(3, 8, 3, padding=1), norm_type(8), nn.LeakyReLU(0.2), nn.Conv2d(8, 4, 3, 2), norm_type(4)]
    return nn.Sequential(*parts, nn.ReLU(), nn.Conv2d(4, 2, 1)).double()


def loss_share(y: Tensor, target: Tensor, own: Tensor, member: Member) -> Tensor:
    """This process's share of the batch's mean squared error, for DistributedDataParallel, which averages."""
    return (y - target[own]).square().sum() / target.numel() * member.size


@check
def fuse_takes_sync_batch_norm(member: Member) -> Errors:
    """Under DistributedDataParallel, whose gradients are the mean over the processes."""
    if not backend.has_native_cpu():  # PyTorch's own module refuses CPUs
        yield "SyncBatchNorm needs the extension", 0.0
        return
    own, images, target = member.own(1), randn(PART, 3, 9, 9), randn(PART, 2, 4, 4, seed=1)
    expected = train(torch_network(nn.BatchNorm2d), images, lambda y: (y - target).square().sum() / target.numel())
    # DistributedDataParallel refuses a SyncBatchNorm on a CPU, whatever its class; so it is put in afterwards.
    parallel = DistributedDataParallel(torch_network(nn.BatchNorm2d), process_group=member.group)
    network = nn.SyncBatchNorm.convert_sync_batchnorm(parallel.module, member.group)
    report = igan_fast.fuse(network)
    actual = train(parallel, images[own], lambda y: loss_share(y, target, own, member))
    yield "training", far(actual, [expected[0][own], *expected[1:]])
    kinds = [(entry.kind, entry.fused) for entry in report if "Norm" in entry.kind]
    yield "is fused", float(kinds != [("SyncBatchNorm", True)] * 2)
    results = [entry.result for entry in report if "Norm" in entry.kind]
    fused = ["with the LeakyReLU(0.2) after it", "with the ReLU after it"]
    yield f"computes the activation: {results}", float(backend.has_native_cpu() and results != fused)
    parallel.eval()
    if member.rank == 0:  # in evaluation a process may be alone
        plain = torch_network(nn.BatchNorm2d).eval()
        plain.load_state_dict(network.state_dict())
        yield "evaluation", far([parallel.module(images)], [plain(images)])
    dist.barrier(member.group)


@check
def fused_sync_batch_norm_where_its_result_is_used_otherwise(member: Member) -> Errors:
    """A use that was not expected, a hook, a checkpoint and second derivatives need no further exchange."""
    if not backend.has_native_cpu():
        yield "SyncBatchNorm used otherwise needs the extension", 0.0
        return
    own, x = member.own(1), randn(PART, 4, 5, 5)

    def uses(norm: nn.Module, x: Tensor) -> list[Tensor]:
        found = []
        for use in (torch.relu, torch.relu, torch.tanh, torch.relu, lambda t: t.relu() + t):
            x = x.detach().requires_grad_()
            y = use(norm(x))
            (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
            found += [y, dx, *torch.autograd.grad((dx * dx).sum(), x)]
        handle = norm.register_full_backward_hook(lambda module, inputs, outputs: None)
        found.append(torch.autograd.grad(torch.relu(norm(x)).square().sum(), x)[0])
        handle.remove()
        y = checkpoint(lambda t: torch.relu(norm(t)), x, use_reentrant=False)
        return [*found, *torch.autograd.grad(y.square().sum(), x)]

    expected = uses(nn.BatchNorm2d(4).double(), x)
    norm = nn.SyncBatchNorm(4, process_group=member.group).double()
    igan_fast.fuse(norm)
    yield "uses", far(uses(norm, x[own]), [t[own] for t in expected])


@check
def fuse_changes_nothing_under_ddp(member: Member) -> Errors:
    """With BatchNorm2d, whose statistics are each process's own; and with FeatureMatchingLoss."""
    images, real = randn(3, 3, 9, 9, seed=member.rank), randn(3, 2, 4, 4, seed=9)
    results = []
    for fused, loss in ((False, plain_losses.FeatureMatchingLoss()), (True, losses.FeatureMatchingLoss())):
        network = torch_network(nn.BatchNorm2d)
        if fused:
            igan_fast.fuse(network)
        parallel = DistributedDataParallel(network, process_group=member.group)
        results.append(train(parallel, images, lambda y, loss=loss: loss([[y]], [[real]])))
    yield "training", far(*results)


@check
def layers_train_under_ddp(member: Member) -> Errors:
    own, images, target = member.own(2), randn(2 * PART, 3, 8, 8), randn(2 * PART, 4, 4, 4, seed=1)

    def network(module: Any, group: Any, **settings: Any) -> nn.Sequential:
        torch.manual_seed(0)
        settings |= {"groups": 2, "process_group": group, "dtype": torch.float64}
        return nn.Sequential(
            module.ConvNormAct2d(3, 8, **settings),
            module.ConvTransposeNormAct2d(8, 4, **settings),
            nn.Conv2d(4, 4, 2, 2, dtype=torch.float64),
            module.NormAct2d(4, **settings),
        )

    for name, settings in {"momentum": {}, "no momentum": {"momentum": None}}.items():
        alone = network(plain_layers, None, **settings)
        expected = train(alone, images, lambda y: (y - target).square().sum() / target.numel())
        for wing, module in {"reference": plain_layers, "fused": layers}.items():
            together = network(module, member.group, **settings)
            yield f"{wing}, state_dict", float(list(together.state_dict()) != list(alone.state_dict()))
            parallel = DistributedDataParallel(together, process_group=member.group)
            actual = train(parallel, images[own], lambda y: loss_share(y, target, own, member))
            yield f"{wing}, {name}", far(actual, [expected[0][own], *expected[1:]])
            together.eval()
            if member.rank == 0:  # in evaluation a process may be alone
                yield f"{wing}, evaluation", far([together(images)], [alone.eval()(images)])
                alone.train()
            dist.barrier(member.group)


@check
def a_layer_keeps_its_group(member: Member) -> Errors:
    for module in (layers, plain_layers):
        network = nn.Sequential(module.NormAct2d(3), module.NormAct2d(3, groups="instance"))
        module.set_process_group(network, member.group)
        groups = [part.process_group for part in (*network, *copy.deepcopy(network))]
        yield "deepcopy", float(groups != [member.group, None] * 2)
        file = io.BytesIO()
        torch.save(network, file)
        file.seek(0)
        yield "pickle", float(torch.load(file, weights_only=False)[0].process_group is not None)
        yield "repr", float(f"processes={member.size}" not in repr(network[0]))
        module.set_process_group(network, None)
        yield "none", float(network[0].process_group is not None)
        yield from raises(
            ValueError, "groups is 'instance' with a process_group; expected a number",
            lambda module=module: module.NormAct2d(3, groups="instance", process_group=member.group),
        )  # fmt: skip


@check
def errors_name_what_was_found(member: Member) -> Errors:
    x = randn(1 if member.rank == 0 else 0, 3, 1, 1).requires_grad_()
    for module, choice in implementations().values():
        yield from raises(
            ValueError, f"Expected more than 1 value per channel when training, got 1 in all {member.size} processes",
            lambda module=module, choice=choice: module.norm_act(x, None, None, process_group=member.group, **choice),
        )  # fmt: skip
        for wrong in ("world", dist.GroupMember.NON_GROUP_MEMBER):
            yield from raises(
                TypeError, f"process_group is {wrong!r}; expected a group of torch.distributed that this process",
                lambda module=module, wrong=wrong: module.norm_act(x, None, None, process_group=wrong),
            )  # fmt: skip
    if backend.has_native_cpu():
        large = randn(4, 3, 2, 2).requires_grad_()
        y = ops.norm_act(large, None, None, process_group=member.group)
        yield from raises(
            RuntimeError, "norm_act with a process_group has no batched gradients",
            lambda: torch.autograd.grad(y, large, torch.stack([y, y]).detach(), is_grads_batched=True),
        )  # fmt: skip


def raises(kind: type[Exception], text: str, call: Callable[[], Any]) -> Errors:
    """No error if the call raises this one."""
    try:
        call()
    except kind as found:
        yield f"{text}: {found}", float(text not in str(found))
    else:
        yield f"{text}: nothing was raised", 1.0
