"""The benchmarks' result files, and what ``--quick`` leaves out."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
if not (ROOT / "bench").is_dir():
    pytest.skip("the benchmarks are not here: the installed package is tested", allow_module_level=True)
sys.path.append(str(ROOT))

from bench import conftest, core  # noqa: E402

pytestmark = pytest.mark.any_build


def item(name: str, **parameters: Any) -> Any:
    found = SimpleNamespace(nodeid=f"bench/test_it.py::{name}[{'-'.join(map(str, parameters.values()))}]")
    if parameters:
        found.callspec = SimpleNamespace(params=parameters)
    return found


def config(*, quick: bool) -> Any:
    left_out: list[Any] = []
    hook = SimpleNamespace(pytest_deselected=lambda items: left_out.extend(items))
    return SimpleNamespace(getoption={"--quick": quick}.__getitem__, hook=hook, left_out=left_out)


def test_quick_keeps_each_value_of_each_parameter() -> None:
    items = [
        *(item("test_a", dtype=dtype, layout=layout) for dtype in (1, 2, 3) for layout in ("x", "y")),
        item("test_b", dtype=1, layout="x"),
        item("test_c"),
    ]
    kept = [items[0], items[1], items[2], items[4], items[6], items[7]]
    everything, of_all, of_quick = list(items), config(quick=False), config(quick=True)
    conftest.pytest_collection_modifyitems(of_all, items)
    assert items == everything
    conftest.pytest_collection_modifyitems(of_quick, items)
    assert items == kept
    assert of_quick.left_out == [everything[3], everything[5]]


def test_results_are_added_and_the_rest_of_the_file_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine: dict[str, Any] = {"name": "machine"}
    monkeypatch.setattr(conftest, "machine_of", lambda _: machine)
    monkeypatch.setattr(conftest, "RESULTS", [])
    options: Any = SimpleNamespace(getoption={"--results": tmp_path / "new"}.__getitem__)

    def result(operator: str, **more: Any) -> dict[str, Any]:
        return {"operator": operator, "batch": 1, "dtype": "fp32", "layout": "", **more}

    path = tmp_path / "new" / "machine.json"
    conftest.keep(result("b", times=1), options)
    core.write_results(path, {**core.read_results(path), "profiles": [7]})
    conftest.keep(result("a", times=2), options)
    conftest.keep(result("b", times=3), options)
    conftest.keep(result("b", launches=4), options)
    conftest.keep(result("c", launches=5), options)  # counts of what was not measured
    assert json.loads(path.read_text()) == {
        "machine": machine,
        "results": [result("a", times=2), result("b", times=3, launches=4)],
        "profiles": [7],
    }
    assert [each.name for each in path.parent.iterdir()] == ["machine.json"]
    assert core.read_results(tmp_path / "missing.json") == {}
