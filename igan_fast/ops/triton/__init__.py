"""The operators in Triton: for CUDA devices without the native extension, and for tests on a CPU in its interpreter.

Importing this package imports Triton and every module here. Each module registers its operators with the dispatcher,
in the namespace ``igan_fast_triton``, under the same schemas as the native operators. ``igan_fast.ops`` imports it when
it is first needed (``backend``), calls the operators, and documents what they compute.
"""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
