"""pytest plugin: wherever a test asks for the native CPU kernels, it gets the emulated CUDA kernels.

``CUDA_ON_CPU`` names the library that ``build`` made.
"""

from __future__ import annotations

import os

import torch

from igan_fast.ops import backend

torch.ops.load_library(os.environ["CUDA_ON_CPU"])
backend.NATIVE = "igan_fast_emulated"
backend._announce(backend.NATIVE)
