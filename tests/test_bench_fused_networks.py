"""``bench.fused_networks``: a small network is measured, and the table, by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
if not (ROOT / "bench").is_dir():
    pytest.skip("the benchmarks are not here: the installed package is tested", allow_module_level=True)
sys.path.append(str(ROOT))

from bench import fused_networks  # noqa: E402
from bench.networks import Network  # noqa: E402

RESULTS = [
    {
        "network": "A",
        "mode": "evaluation",
        "layout": "contiguous",
        "plain_ms": 1234.56,
        "fused_ms": 1000.0,
        "times": {"median": 1.234, "q1": 1.2, "q3": 1.3},
    },
    {
        "network": "B",
        "mode": "training",
        "layout": "channels_last",
        "plain_ms": 2.0,
        "fused_ms": 2.0,
        "times": {"median": 1.0, "q1": 0.99, "q3": 1.01},
    },
]


def test_the_table_has_a_row_for_each_network_and_a_column_for_each_way() -> None:
    machine = {"hardware": "a CPU, 1 threads", "torch": "2.0", "date": "2026-01-02"}
    table = fused_networks.render({"machine": machine, "results": RESULTS}).splitlines()
    assert table[0] == (
        "| | Evaluation, contiguous | Evaluation, channels_last | Training, contiguous | Training, channels_last |"
    )
    assert table[1] == "|---|---|---|---|---|"
    assert table[2] == "| A | 1,234.6 ms, **1.23×** (1.20–1.30) |  |  |  |"
    assert table[3] == "| B |  |  |  | 2.0 ms, **1.00×** (0.99–1.01) |"
    assert table[5].startswith("a CPU, 1 threads, PyTorch 2.0, 2026-01-02; one image at a time")


def test_one_command_measures_and_keeps_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {
        "images": Network(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), (3, 8, 8)),
        "sounds": Network(lambda: nn.Conv1d(2, 3, 3), (2, 8)),
    }
    monkeypatch.setattr(fused_networks, "NETWORKS", small)
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)  # of this process, for good
    out = tmp_path / "networks" / "machine.json"
    assert fused_networks.main(["--out", str(out), "--turns", "2"]) == 0
    document = json.loads(out.read_text(encoding="utf-8"))
    measured = [(each["network"], each["mode"], each["layout"]) for each in document["results"]]
    assert measured == [
        ("images", "evaluation", "contiguous"),
        ("images", "evaluation", "channels_last"),
        ("images", "training", "contiguous"),
        ("images", "training", "channels_last"),
        ("sounds", "evaluation", "contiguous"),
        ("sounds", "training", "contiguous"),
    ]
    assert all(each["plain_ms"] > 0 < each["times"]["median"] for each in document["results"])


def test_a_wrong_number_of_turns_is_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        fused_networks.main(["--turns", "1"])
    assert "--turns: found 1, expected 2 or more" in capsys.readouterr().err
