"""The operators in Triton: for CUDA devices without the native extension, and for tests on a CPU in its interpreter.

Importing this package imports Triton and every module here. Each module registers its operators with the dispatcher,
in the namespace ``igan_fast_triton``. The schemas are those of the native operators; only ``gather_images`` has none.
``igan_fast.ops`` imports this package when it is first needed (``backend``), calls its operators and documents them.
"""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
