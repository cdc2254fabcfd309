"""The loss curves of a run, drawn from its log."""

from __future__ import annotations

import io
from pathlib import Path

from igan_fast.files import clear_write_errors, replace_file
from igan_fast.train.run_log import read_log

__all__ = ["plot_losses"]

_Curves = dict[str, tuple[list[int], list[float]]]  # name → (iterations, values)


def plot_losses(log: Path, image: Path) -> bool:
    """Draw ``image`` (PNG, 1500 pixels wide) from ``log``: the loss terms of D and C, those of G, and the scores of
    checkpoints.

    Returns:
        Whether there was anything to draw; if not, nothing is written.

    Raises:
        InputError: ``image`` cannot be written.
    """
    panels: dict[str, _Curves] = {"D and C": {}, "G": {}, "other losses": {}, "scores": {}}
    for record in read_log(log):
        if record.get("kind") == "losses":
            losses = record.get("losses")
            for name, value in losses.items() if isinstance(losses, dict) else ():
                title = {"d_": "D and C", "g_": "G"}.get(name[:2], "other losses")
                _append(panels[title], name, record["iteration"], value)
        else:
            for name in record.keys() - {"kind", "iteration"}:
                _append(panels["scores"], name, record["iteration"], record[name])
    drawn = {title: curves for title, curves in panels.items() if curves}
    if not drawn:
        return False
    data = _draw(drawn)
    with clear_write_errors(str(image)):
        replace_file(image, data)
    return True


def _append(curves: _Curves, name: str, iteration: int, value: object) -> None:
    # Losses are float32. Larger numbers can only come from a damaged log, and matplotlib may fail on them.
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**128 and iteration < 2**53:
        iterations, values = curves.setdefault(name, ([], []))
        iterations.append(iteration)
        values.append(value)


def _draw(panels: dict[str, _Curves]) -> bytes:
    # Not pyplot, which would change global state of the calling program, perhaps even open a window system.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.2 * len(panels)), layout="constrained")
    for axes, (title, curves) in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels.items(), strict=True):
        for name, (iterations, values) in sorted(curves.items()):
            axes.plot(iterations, values, label=name, linewidth=1.2, marker="." if len(values) < 30 else None)
        if all(value > 0 for _, values in curves.values() for value in values):
            axes.set_yscale("log")
        axes.set_title(title, loc="left")
        axes.set_xlabel("iteration")
        axes.grid(alpha=0.3)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=150)
    return data.getvalue()
