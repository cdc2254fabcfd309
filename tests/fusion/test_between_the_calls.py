"""A change between the calls of a normalisation and its activation has the same effect as in plain PyTorch."""

from __future__ import annotations

import copy
import gc
import math
import threading
import weakref

import pytest
import torch
import torch.nn.functional as F
from plain_and_fused import CONTEXTS, Net, assert_alike, differences, images, pair, randomised, record
from torch import Tensor, nn

import igan_fast

pytestmark = pytest.mark.filterwarnings("ignore")


def between(change, after_conv=None):
    """A way that calls ``change(net, hidden, normalised, input)`` before the activation, and returns its result too."""

    def way(net, x):
        h = net.conv(x)
        if after_conv is not None:
            after_conv(net, h)
        y = net.norm(h)
        returned = change(net, h, y, x)
        return net.act(y), returned

    return way


def unseen(change):
    """A change that autograd does not see."""

    def without(net, h, y, x):
        with torch.no_grad():
            return change(net, h, y, x)

    return between(without)


def stepped(net, h, y, x):
    """An optimiser's step with the gradients of another pass."""
    if not torch.is_grad_enabled():
        return
    net(x.detach() * 2).square().mean().backward()
    torch.optim.SGD(net.parameters(), 0.1).step()
    net.zero_grad()


def state_set(net, h, y, x):
    net.load_state_dict({name: torch.full_like(v, 2) for name, v in net.state_dict().items()})


def another_call(net, h, y, x):
    return net(x + 1)


def another_call_without_gradients(net, h, y, x):
    with torch.no_grad():
        return net(x + 1)


def parameters_freed(net, h, y, x):
    net.norm.weight = nn.Parameter(torch.ones(16, dtype=x.dtype))
    net.norm.running_mean = torch.zeros(16, dtype=x.dtype)


def storage_freed(net, h, y, x):
    if not h.requires_grad:
        h.untyped_storage().resize_(0)


def replaced(name, module):
    def change(net, h, y, x):
        setattr(net, name, module())

    return change


def there_and_back(net, x):
    h = net.conv(x)
    y = net.norm(h)
    net.float()
    z = net.act(y)
    net.double()
    return z


#: Without changes by ``.data`` of a tensor that autograd has saved: with them PyTorch's own gradients are wrong too.
CHANGES = {
    "nothing": between(lambda net, h, y, x: None),
    "hidden, in place": between(lambda net, h, y, x: h.add_(1.0) if not h.requires_grad else None),
    "hidden, unseen": unseen(lambda net, h, y, x: h.mul_(-1.0)),
    "hidden, zeroed through a view": unseen(lambda net, h, y, x: h.view(-1).zero_()),
    "hidden, in place, seen": between(lambda net, h, y, x: h.add_(1.0)),
    "hidden, by a parameter's data": between(lambda net, h, y, x: h.detach().copy_(torch.ones_like(h))),
    "input, in place": unseen(lambda net, h, y, x: x.zero_()),
    "input, by data": between(lambda net, h, y, x: x.data.mul_(3.0)),
    "norm's weight": unseen(lambda net, h, y, x: net.norm.weight.mul_(-2.0)),
    "norm's bias": unseen(lambda net, h, y, x: net.norm.bias.add_(1.0)),
    "norm's bias by data": between(lambda net, h, y, x: net.norm.bias.data.add_(1.0)),
    "norm's bias' data set": between(
        lambda net, h, y, x: setattr(net.norm.bias, "data", torch.ones_like(net.norm.bias))
    ),
    "conv's weight": unseen(lambda net, h, y, x: net.conv.weight.mul_(-2.0)),
    "conv's bias by data": between(lambda net, h, y, x: net.conv.bias.data.add_(1.0)),
    "conv's weight by data": between(lambda net, h, y, x: net.conv.weight.data.zero_()),
    "running statistics": unseen(
        lambda net, h, y, x: (net.norm.running_mean.add_(1.0), net.norm.running_var.mul_(4.0))
    ),
    "running statistics reset": between(lambda net, h, y, x: net.norm.reset_running_stats()),
    "running statistics clipped": unseen(lambda net, h, y, x: net.norm.running_var.clamp_(max=0.1)),
    "eval": between(lambda net, h, y, x: (net.eval(), None)[1]),
    "train": between(lambda net, h, y, x: (net.train(), None)[1]),
    "switched and back": between(lambda net, h, y, x: (net.train(not net.training).train(not net.training), None)[1]),
    "eps": between(lambda net, h, y, x: setattr(net.norm, "eps", 0.7)),
    "weight removed": between(lambda net, h, y, x: setattr(net.norm, "weight", None)),
    "statistics removed": between(
        lambda net, h, y, x: (setattr(net.norm, "running_mean", None), setattr(net.norm, "running_var", None))[:0]
    ),
    "parameters freed": between(parameters_freed),
    "requires_grad switched": between(lambda net, h, y, x: (net.requires_grad_(False), None)[1]),
    "requires_grad of the norm": between(
        lambda net, h, y, x: (net.norm.requires_grad_(not net.norm.weight.requires_grad), None)[1]
    ),
    "conv's stride and padding": between(lambda net, h, y, x: setattr(net.conv, "stride", (2, 2))),
    "activation replaced": between(replaced("act", nn.Tanh)),
    "norm replaced": between(replaced("norm", lambda: nn.BatchNorm2d(16).double())),
    "conv replaced": between(replaced("conv", lambda: nn.Conv2d(3, 16, 1).double())),
    "state read": between(lambda net, h, y, x: [v.clone() for v in net.state_dict().values()]),
    "state set": between(state_set),
    "optimiser's step": between(stepped),
    "another call": between(another_call),
    "another call without gradients": between(another_call_without_gradients),
    "another dtype and back": there_and_back,
    "another dtype": lambda net, x: (lambda y: (net.float(), net.act(y).detach()))(net.norm(net.conv(x)))[1:],
    "memory format": between(lambda net, h, y, x: (net.to(memory_format=torch.channels_last), None)[1]),
    "fused again": between(lambda net, h, y, x: (igan_fast.fuse(net), None)[1]),
    "unfused": between(lambda net, h, y, x: (igan_fast.unfuse(net), None)[1]),
    "random numbers": between(lambda net, h, y, x: torch.rand(3)),
    "storage freed": between(storage_freed),
    "default dtype": lambda net, x: _with_default(torch.float32, net, x),
    "threads": between(lambda net, h, y, x: torch.set_num_threads(1)),
}


def _with_default(dtype, net, x):
    y = net.norm(net.conv(x))
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return net.act(y)
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("context", ["grad", "no_grad", "inference"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("change", CHANGES)
def test_change_between_the_calls(change, training, context):
    base = images()
    net = randomised(Net(act=nn.LeakyReLU(0.2))).train(training)
    assert_alike(net, CHANGES[change], base, context=context)  # each call starts from what the last one has changed
    assert_alike(net, CHANGES[change], base, context=context, calls="taught")


#: Changes between the calls of the convolution and of the normalisation, which may be folded in evaluation.
EARLIER_CHANGES = {
    "weight by data": lambda net, h: net.norm.weight.data.mul_(1.5),
    "bias' data set": lambda net, h: setattr(net.norm.bias, "data", net.norm.bias.data + 0.2),
    "bias by NumPy": lambda net, h: net.norm.bias.detach().numpy().__iadd__(0.3),
    "mean by data": lambda net, h: net.norm.running_mean.data.add_(0.1),
    "variance by NumPy": lambda net, h: net.norm.running_var.numpy().__imul__(2.0),
    "convolution's weight by data": lambda net, h: net.conv.weight.data.mul_(1.5),
    "eps": lambda net, h: setattr(net.norm, "eps", net.norm.eps + 0.7),
    "a not-a-number": lambda net, h: net.norm.weight.data[:2].fill_(math.nan),
    "nothing": lambda net, h: None,
}


@pytest.mark.parametrize("context", ["grad", "no_grad", "inference"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("change", EARLIER_CHANGES)
def test_change_between_the_convolution_and_the_normalisation(change, training, context):
    def way(net, x):
        h = net.conv(x)
        EARLIER_CHANGES[change](net, h)
        return net.act(net.norm(h))

    net = randomised(Net(act=nn.LeakyReLU(0.2))).train(training)
    assert_alike(net, way, images(), context=context)
    assert_alike(net, way, images(), context=context, calls="taught first")


@pytest.mark.parametrize("context", ["grad", "no_grad", "inference"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_a_hook_before_the_normalisation_writes_its_parameters(training, context):
    def scale_weight(norm, given):
        norm.weight.data.mul_(0.9)

    fused, plain = pair(randomised(Net(act=nn.LeakyReLU(0.2))).train(training))
    for model in (fused, plain):
        model.norm.register_forward_pre_hook(scale_weight)
    assert_alike(plain, lambda net, x: net(x), images(), fused=fused, context=context, calls="taught first again")


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_the_backward_pass_after_the_parameters_changed(training):
    """After an in-place change of a saved parameter autograd raises an error, after one by ``.data`` it does not."""

    def way(net, x, by_data):
        y = net(x)
        with torch.no_grad():
            (net.norm.weight.data if by_data else net.norm.weight).mul_(2.0)
        return y

    for by_data in (False, True):
        net = randomised(Net()).train(training)
        assert_alike(net, lambda net, x, by_data=by_data: way(net, x, by_data), images(), calls="first")


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_two_backward_passes(training):
    def way(net, x):
        y = net(x)
        y.sum().backward()
        return y.sum()

    assert_alike(randomised(Net()).train(training), way, images())
    assert_alike(
        randomised(Net()).train(training),
        lambda net, x: (lambda y: (y.sum().backward(retain_graph=True), y)[1])(net(x)),
        images(),
    )


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_backward_from_the_normalisation_and_from_the_activation(training):
    """Two backward passes through one normalisation: the first frees the graph, as in plain PyTorch."""

    def way(net, x, retain):
        y = net.norm(net.conv(x))
        z = net.act(y)
        y.square().sum().backward(retain_graph=retain)
        return z

    for retain in (False, True):
        net = randomised(Net(act=nn.LeakyReLU(0.2))).train(training)
        assert_alike(net, lambda net, x, retain=retain: way(net, x, retain), images())


@pytest.mark.parametrize("context", ["grad", "no_grad"])
def test_two_threads_at_once_on_one_network(context):
    """In evaluation, without updates; by ``torch.autograd.grad``, which accumulates no gradients."""

    def results(net, seed):
        out = []
        for call in range(12):
            x = images(seed=seed + call).requires_grad_()
            with CONTEXTS[context]():
                y = net.norm(net.conv(x))
                y = [net.act, F.relu, torch.tanh, lambda y: y * 2][call % 4](y)
            out += [
                y.detach(),
                *(torch.autograd.grad(y.square().sum(), [x, net.norm.weight]) if y.requires_grad else []),
            ]
        return out

    fused, plain = pair(randomised(Net(act=nn.LeakyReLU(0.2))).eval())
    seeds = (100, 200, 300)
    found: dict[int, list[Tensor]] = {}
    failed: list[BaseException] = []

    def work(seed):
        try:
            found[seed] = results(fused, seed)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in seeds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed
    for seed in seeds:
        for a, e in zip(found[seed], results(plain, seed), strict=True):
            assert (a - e).abs().max() < 1e-9


def test_a_result_of_one_thread_is_used_by_another():
    """Each thread has its own grad mode."""
    fused, plain = pair(randomised(Net()))

    def way(net, x):
        y = net.norm(net.conv(x))
        out = []
        thread = threading.Thread(target=lambda: out.append(net.act(y)))
        thread.start()
        thread.join()
        return out

    for context in CONTEXTS:
        expected = record(way, plain, images(), context=context)
        assert not differences(record(way, fused, images(), context=context), expected)


def test_a_result_outlives_its_network():
    def way(make, x):
        net = make()
        y = net.norm(net.conv(x))
        act = net.act
        del net
        gc.collect()
        return act(y), y * 2

    fused, plain = pair(randomised(Net()))
    expected = record(way, lambda: copy.deepcopy(plain), images())
    assert not differences(record(way, lambda: copy.deepcopy(fused), images()), expected)


def test_no_input_or_result_stays_alive():
    """The modules keep no reference to an input or a result."""
    fused, _ = pair(randomised(Net(act=nn.LeakyReLU(0.2))))
    for training in (True, False):
        fused.train(training)
        for context in CONTEXTS:
            for use in (fused.act, torch.tanh, lambda y: y, lambda y: None):
                for _ in range(2):
                    x = images().requires_grad_()
                    with CONTEXTS[context]():
                        h = fused.conv(x)
                        y = fused.norm(h)
                        z = use(y)
                    alive = [weakref.ref(t) for t in (x, h, y)]
                    del x, h, y, z
                    assert [ref() for ref in alive] == [None] * 3
