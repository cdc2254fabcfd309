"""Triton's kernels compile for Ampere and Hopper, on a machine that has neither: the interpreter does not show that."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

CODE = '''
import sys
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction, MockTensor

class NoDevice:
    """All that compiling asks of a driver."""
    def get_current_target(self): return GPUTarget("cuda", int(sys.argv[1]), 32)
    def get_current_device(self): return 0
    def set_current_device(self, device): pass
    def get_current_stream(self, device=0): return 0
    def get_active_torch_device(self): return torch.device("cpu")

driver.set_active(NoDevice())
from igan_fast.ops.triton import feature_l1, gather_images, norm_act

compiled = []
launch = JITFunction.run

def described(argument):
    if isinstance(argument, torch.Tensor):
        return MockTensor(argument.dtype)
    return tuple(map(described, argument)) if isinstance(argument, tuple) else argument

def compile_only(self, *args, grid, warmup, **options):
    kernel = launch(self, *map(described, args), grid=grid, warmup=True, **options)
    assert kernel.asm["cubin"], self.__name__
    compiled.append(self.__name__)
    return kernel

JITFunction.run = compile_only
for dtype in (torch.float32, torch.bfloat16, torch.float64):
    fakes = [torch.empty(2, 64, 8, 8, dtype=dtype), torch.empty(2, 8, 4, 4, dtype=dtype)]
    reals = [torch.empty_like(fakes[0]), fakes[1].to(memory_format=torch.channels_last)]
    _, signs = feature_l1.feature_l1(fakes, reals, [1.0, 2.0], True)
    feature_l1.feature_l1_backward(torch.ones(()), signs, [8192, 256], [0, 2048], [1.0, 2.0], dtype)
    for format in (torch.contiguous_format, torch.channels_last):
        x = torch.empty(4, 64, 16, 16, dtype=dtype).to(memory_format=format)
        weight, bias = torch.ones(64), torch.zeros(64)
        _, mean, var = norm_act.norm_act(x, weight, bias, 1e-5, 0.2, 2)
        norm_act.norm_act_backward(x, x, weight, None, mean, var, 1e-5, 0.2, True)
        norm_act.norm_act_inference(x, None, bias, weight, weight, 1e-5, 0.2)
        norm_act.norm_act_update(weight, bias, mean, var, 10, 0.1)
pictures = torch.empty(9, 8, 8, 3, dtype=torch.uint8)
gather_images.gather_images(pictures, torch.zeros(4, dtype=torch.int64), torch.zeros(4, dtype=torch.bool))
print(sorted(set(compiled)))
'''


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
def test_every_kernel_compiles(capability):
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    finished = subprocess.run(
        [sys.executable, "-c", CODE, str(capability)], env=env, capture_output=True, text=True, check=False
    )
    if "ptxas" in finished.stderr and "not found" in finished.stderr:
        pytest.skip("Triton came without ptxas")
    assert finished.returncode == 0, finished.stderr
    assert len(finished.stdout.split(",")) == 11  # kernels
