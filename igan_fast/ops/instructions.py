"""Which instructions the CPU has for products of half types."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

import torch

__all__ = ["Products", "products_of"]

#: How products of a half type are computed: by no instructions for it, of vectors, or of matrices.
Products: TypeAlias = Literal["none", "vectors", "matrices"]

#: The names that /proc/cpuinfo has for these instructions, on x86 and Arm. PyTorch uses them through oneDNN.
_VECTORS = {torch.bfloat16: {"avx512_bf16"}, torch.float16: {"avx512_fp16", "asimdhp"}}
_MATRICES = {torch.bfloat16: {"amx_bf16", "bf16"}, torch.float16: {"amx_fp16"}}


def products_of(dtype: torch.dtype) -> Products | None:
    """How PyTorch's convolutions multiply numbers of a half type on this CPU.

    Args:
        dtype: bfloat16 or float16.

    Returns:
        None where it is not known: only Linux lists a CPU's instructions.
    """
    if not torch._C._has_mkldnn:
        return "none"
    onednn = torch.ops.mkldnn
    supported = onednn._is_mkldnn_bf16_supported if dtype == torch.bfloat16 else onednn._is_mkldnn_fp16_supported
    if not supported():
        return "none"
    try:  # oneDNN says yes on any CPU with AVX-512, but computes in float32 if the CPU lacks the instructions
        known = set(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split())
    except OSError:
        return None
    if not known.isdisjoint(_MATRICES[dtype]):
        return "matrices"
    return "none" if known.isdisjoint(_VECTORS[dtype]) else "vectors"
