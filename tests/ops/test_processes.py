"""Normalisation over several processes (``process_group``, ``SyncBatchNorm``) equals one process with the whole batch.

The processes are started once; ``process_checks`` has the checks, which run in them.
"""

from __future__ import annotations

import json
from pathlib import Path

import process_checks
import pytest
import torch.distributed as dist
import torch.multiprocessing

from igan_fast.ops import backend


@pytest.mark.skipif(not dist.is_available(), reason="this torch has no torch.distributed")
def test_processes_equal_one_process(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(process_checks.main, (tmp_path,), process_checks.PROCESSES)
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(process_checks.PROCESSES)]
    assert all(len(errors) >= len(process_checks.CHECKS) for errors in found)
    assert any("native" in name for name in found[0]) == backend.has_native_cpu()
    wrong = {
        f"process {rank}: {name}": e for rank, errors in enumerate(found) for name, e in errors.items() if e > 1e-10
    }
    assert not wrong, "\n".join(f"{name}: {value:.1e}" for name, value in wrong.items())
