"""Markdown tables out of result files.

``python -m bench.table bench/results/*.json`` prints them, and with ``--summary`` one short table instead. ``--write
FILE`` puts them between that file's ``<!-- bench:start -->`` and ``<!-- bench:end -->``; ``--check FILE`` fails where
that file holds something else.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

START, END = "<!-- bench:start -->", "<!-- bench:end -->"

#: The kinds of benchmarks beside the operators'. The results of each kind go into one table.
KINDS = ("step", "layer", "inference", "data", "example", "import")

#: The number of images in the paper's training: 50 epochs of 185,000 images.
PAPER_IMAGES = 50 * 185_000


def render(documents: Sequence[dict[str, Any]]) -> str:
    """A heading and a table for each machine."""
    return "\n\n".join(_machine(document) for document in documents)


def heading(document: dict[str, Any]) -> str:
    """The machine, the versions and the dates of a result file, in one line."""
    machine, results = document["machine"], document["results"]
    dates = sorted({result.get("date", machine["date"]) for result in results})
    rounds = min((result["rounds"] for result in results), default=0)
    return (
        f"**{machine['hardware']}**, torch {machine['torch']}, {' to '.join(dates[:1] + dates[-1:][: len(dates) - 1])}"
        f"{_memory(machine)}; medians of {rounds} interleaved rounds."
    )


def _machine(document: dict[str, Any]) -> str:
    results = document["results"]
    kinds = {kind: [r for r in results if r.get("kind", "operator") == kind] for kind in KINDS}
    operators = [r for r in results if r.get("kind", "operator") == "operator"]
    tables = [
        _steps(kinds["step"]),
        _layers(kinds["layer"]),
        _tasks([*kinds["inference"], *kinds["data"]]),
        _examples(kinds["example"]),
        _operators(operators),
        _imports(kinds["import"]),
    ]
    return "\n\n".join([heading(document), *(table for table in tables if table)])


def _steps(results: Sequence[dict[str, Any]]) -> str:
    """The table of training iterations, and how long the paper's training would take."""
    if not results:
        return ""
    lines = [
        "| Training iteration | Batch | Type | Ours | img/s | Reference | Best plain PyTorch | Of product ceiling* | "
        "Peak memory, reference's |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        speed = result["batch"] / _ours(result) * 1e3
        cells = [
            result["operator"].removeprefix("iteration, "),
            str(result["batch"]),
            result["dtype"],
            f"{_ours(result):.0f} ms",
            f"{speed:.1f}",
            _against("eager, reference", [result]),
            # The reference may be the fastest of them. What is measured beside the default iteration has none.
            _against(("plain", "eager"), [result])
            if any(name.startswith("plain") for name in result["times"])
            else "–",
            f"{result['share_of_product']:.0%}" if "share_of_product" in result else "–",
            f"{result['peak_bytes']['ours'] / 1e6:.0f} of {result['peak_bytes']['eager, reference'] / 1e6:.0f} MB",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "\\* FLOPs as the reference needs them; minimal filtering needs fewer, so that it can pass 100%."]
    launched = [result["launches"] for result in results if "launches" in result]
    if launched:
        kernels, theirs = (launched[0][name] for name in ("ours, without graphs", "eager, reference"))
        lines.append(
            f"Kernels of an iteration: {kernels}, in {launched[0]['ours']} launches; the reference's {theirs}."
        )
    at_128 = [result for result in results if result["operator"] == "iteration, 128² width 64"]
    if at_128:
        fastest = min(at_128, key=lambda result: _ours(result) / result["batch"])
        seconds = PAPER_IMAGES * _ours(fastest) / 1e3 / fastest["batch"]
        lines.append(
            f"The paper's training (Table 1: 50 epochs of 185,000 images at 128², 600,030 s = 166.7 h there) at the "
            f"speed of batch {fastest['batch']} in {fastest['dtype']}: {seconds:,.0f} s = {seconds / 3600:.1f} h."
        )
    return "\n".join(lines)


def _layers(results: Sequence[dict[str, Any]]) -> str:
    """The table of the model's convolutions: PyTorch's library (cuDNN, oneDNN) against ours."""
    if not results:
        return ""
    lines = [
        "| Convolution, 128² width 64 | Batch | Type | Library: forward, input gradient, weight gradient | All three | "
        "Ours, all three | |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        each = [times["both"]["median_ms"] for name, times in result["times"].items() if name.startswith("library")]
        speeds = [result["flops"] / 3 / ms / 1e6 for ms in each]
        scale, unit = (1e3, "TFLOP/s") if max(speeds) >= 1e3 else (1, "GFLOP/s")
        cells = [
            result["operator"],
            str(result["batch"]),
            result["dtype"],
            ", ".join(f"{speed / scale:.{1 if scale > 1 else 0}f}" for speed in speeds) + f" {unit}",
            f"{sum(each):.2f} ms",
            f"{_ours(result):.2f} ms",
            f"**{sum(each) / _ours(result):.1f}×**",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _tasks(results: Sequence[dict[str, Any]]) -> str:
    """The table of inference and data loading."""
    if not results:
        return ""
    lines = [
        "| Task | Ours | img/s | Eager | torch.compile | ONNX Runtime | OpenVINO | Paper, on a GTX 1070 Ti |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        cells = [
            f"{result['operator']}, batch {result['batch']}" + (", bf16" if result["dtype"] == "bf16" else ""),
            f"{_ours(result):.1f} ms",
            f"{result['batch'] / _ours(result) * 1e3:.0f}",
            _against("eager", [result]),
            *(_against(kind, [result]) for kind in ("compile", "ONNX Runtime", "OpenVINO")),
            f"{result['paper_ms']:.0f} ms" if "paper_ms" in result else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _examples(results: Sequence[dict[str, Any]]) -> str:
    """The table of the networks in ``examples/``, as written and after ``fuse``."""
    if not results:
        return ""
    lines = [
        "| Other people's GANs | | Batch | As written | torch.compile | Fused | Both in their better layout | "
        "Peak memory, as written |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        name, _, rest = result["operator"].partition(", ")
        cells = [
            name,
            rest,
            str(result["batch"]),
            f"{median(result, 'eager'):.0f} ms",
            f"{best(result, 'compile'):.0f} ms" if "compile" in result["times"] else "",
            gain(median(result, "ours"), median(result, "eager")),
            gain(best(result, "ours"), best(result, "eager")),
            f"{result['peak_bytes']['ours'] / 1e6:.0f} of {result['peak_bytes']['eager'] / 1e6:.0f} MB",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _operators(results: Sequence[dict[str, Any]]) -> str:
    """The table of the operators, forward and backward."""
    if not results:
        return ""
    rows: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
    for result in results:
        rows.setdefault((result["operator"], result["batch"], result["dtype"]), []).append(result)
    both = any(
        name.startswith(("eager", "compile")) and not name.endswith(result["layout"])
        for result in results
        for name in result["times"]
    )
    layout = "its better layout" if both else "same layout"
    lines = [
        f"| Operator, forward + backward; contiguous / channels_last | Batch | Type | Ours | Eager, {layout} | "
        f"torch.compile, {layout} | Of copy ceiling | Peak memory, eager's |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join(lines + [_row(*key, found) for key, found in rows.items()])


def _imports(results: Sequence[dict[str, Any]]) -> str:
    """A sentence on how much time importing the package adds to importing torch."""
    lines = []
    for result in results:
        alone, times = best(result, "torch alone"), result["times"]["ours"]["both"]
        more, spread = times["median_ms"] - alone, times["q3_ms"] - times["q1_ms"]
        ratio = f"{more:.0f} ms more than" if more > spread else f"as long, within the {spread:.0f} ms of noise, as"
        lines.append(f"`import igan_fast` takes {ratio} the {alone:.0f} ms of starting Python and `import torch`.")
    return "\n".join(lines)


def _memory(machine: dict[str, Any]) -> str:
    return "" if machine.get("memory", "kept") == "kept" else ", memory as malloc gives it"


def _row(operator: str, batch: int, dtype: str, results: Sequence[dict[str, Any]]) -> str:
    """The table row of one operator, batch size and dtype. ``results``: one for each layout."""
    results = sorted(results, key=lambda result: result["layout"] != "contiguous")
    shares = [result["share_of_copy"]["both"] for result in results if result.get("share_of_copy")]
    cells = [
        operator,
        str(batch),
        dtype,
        _pair([f"{_ours(result):.1f}" for result in results]) + " ms",
        _against("eager", results),
        _against("compile", results),
        _pair([f"{share:.0%}" for share in shares]),
        _pair([f"{result['peak_bytes']['ours'] / 1e6:.0f}" for result in results])
        + f" of {min(_peaks(result, 'eager') for result in results) / 1e6:.0f} MB",
    ]
    return f"| {' | '.join(cells)} |"


def _ours(result: dict[str, Any]) -> float:
    return median(result, "ours")


def median(result: dict[str, Any], name: str) -> float:
    """The median of the peer ``name``, in milliseconds."""
    median: float = result["times"][name]["both"]["median_ms"]
    return median


def _peaks(result: dict[str, Any], kind: str) -> float:
    return min(value for name, value in result["peak_bytes"].items() if name.startswith(kind))


def _pair(texts: Sequence[str]) -> str:
    return " / ".join(texts if len(set(texts)) > 1 else texts[:1])


def best(result: dict[str, Any], kind: str | tuple[str, ...], which: str = "both") -> float:
    """The smallest median of the peers whose names begin with ``kind``, in milliseconds."""
    return min(times[which]["median_ms"] for name, times in result["times"].items() if name.startswith(kind))


def _against(kind: str | tuple[str, ...], results: Sequence[dict[str, Any]]) -> str:
    """A cell with the fastest peer of ``kind`` and its ratio to ours in each layout; empty if there is no such peer."""
    if not any(name.startswith(kind) for result in results for name in result["times"]):
        return ""
    theirs = [best(result, kind) for result in results]
    ratios = [other / _ours(result) for other, result in zip(theirs, results, strict=True)]
    return f"{min(theirs):.1f} ms, **{_pair([f'{ratio:.1f}×' for ratio in ratios])}**"


def gain(ours: float, theirs: float) -> str:
    """A cell with our time and the speed-up, in bold from 5 % on."""
    ratio = f"{theirs / ours:.2f}×"
    return f"{ours:.0f} ms, " + (f"**{ratio}**" if theirs / ours >= 1.05 else ratio)


def _between_marks(text: str, new: str) -> str:
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise SystemExit(f"the file lacks {START} or {END}")
    return f"{before}{START}\n{new}\n{END}{after}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.table", description=__doc__)
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("--summary", action="store_true")
    parser.add_argument("--write", type=Path)
    parser.add_argument("--check", type=Path)
    options = parser.parse_args(arguments)
    documents = [json.loads(path.read_text(encoding="utf-8")) for path in options.results]
    if options.summary:
        from bench import summary  # it is made of this module's functions

        tables = summary.render(documents)
    else:
        tables = render(documents)
    target = options.write or options.check
    if target is None:
        print(tables)
        return 0
    text = target.read_text(encoding="utf-8")
    wanted = _between_marks(text, tables)
    if options.write:
        target.write_text(wanted, encoding="utf-8")
    elif wanted != text:
        print(f"{target} does not hold the tables of {', '.join(map(str, options.results))}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
