"""Every Triton kernel compiles for Ampere and Hopper, on a machine without a GPU. The interpreter does not show that.

The kernels are those that ``operator_samples.dispatched`` launches. A kernel or a device function of the package that
none of them reaches fails the test too.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

TESTS = Path(__file__).resolve().parents[2]

CODE = '''
import sys
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction, MockTensor

class NoDevice:
    """All that compiling asks of a driver. The number of the device is its compute capability."""
    capability = 80
    def get_current_target(self): return GPUTarget("cuda", self.capability, 32)
    def get_current_device(self): return self.capability
    def set_current_device(self, device): pass
    def get_current_stream(self, device=0): return 0
    def get_active_torch_device(self): return torch.device("cpu")

driver.set_active(device := NoDevice())
import igan_fast.ops.triton
from igan_fast.ops.triton.common import OPERATORS
from operator_samples import dispatched

compiled = []
launch = JITFunction.run

def described(argument):
    if isinstance(argument, torch.Tensor):
        return MockTensor(argument.dtype)
    return tuple(map(described, argument)) if isinstance(argument, tuple) else argument

def compile_only(self, *args, grid, warmup, **options):
    kernel = launch(self, *map(described, args), grid=grid, warmup=True, **options)
    assert kernel.asm["cubin"], self.__name__
    compiled.append(self)
    return kernel

JITFunction.run = compile_only

def functions(namespace):
    return {value for value in namespace.values() if isinstance(value, JITFunction)}

def reached(function, found):
    if function not in found:
        found.add(function)
        names = {name: function.fn.__globals__.get(name) for name in function.fn.__code__.co_names}
        for other in functions(names):
            reached(other, found)
    return found

package = igan_fast.ops.triton.__name__ + "."
modules = [module for name, module in sys.modules.items() if name.startswith(package)]
written = set().union(*(functions(vars(module)) for module in modules))
# Between the two, only the instructions for bfloat16 differ.
for device.capability, dtypes in ((80, (torch.float32, torch.bfloat16, torch.float64)), (90, (torch.bfloat16,))):
    compiled.clear()
    for dtype in dtypes:
        for name, calls in dispatched(torch.device("cpu"), dtype, channels=64, side=16).items():
            for arguments in calls:
                OPERATORS[name](*arguments)
    tried = set()
    for kernel in compiled:
        reached(kernel, tried)
    print(len({kernel.__name__ for kernel in compiled}), "kernels compiled for", device.capability)
    if missing := sorted(f"{f.__module__}.{f.__name__}" for f in written - tried):
        sys.exit(f"no sample reaches {missing}")
'''


@pytest.mark.slow
def test_every_kernel_compiles():
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    env["PYTHONPATH"] = os.pathsep.join([str(TESTS), env.get("PYTHONPATH", "")])
    finished = subprocess.run([sys.executable, "-c", CODE], env=env, capture_output=True, text=True, check=False)
    if "ptxas" in finished.stderr and "not found" in finished.stderr:
        pytest.skip("Triton came without ptxas")
    assert finished.returncode == 0, finished.stderr
    for_ampere, for_hopper = (line.split(" for ")[0] for line in finished.stdout.splitlines())
    assert for_ampere == for_hopper != "0 kernels compiled"
