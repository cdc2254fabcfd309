"""The page: everything is on it, its links lead somewhere, and the JSON is read back as it was."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from igan_fast.app.paper.ablation import Ablation, ablation
from igan_fast.app.paper.editing import single_attributes
from igan_fast.app.paper.markdown import Table
from igan_fast.app.paper.methods import Ours
from igan_fast.app.paper.page import Experiment, Missing, Part, TrainedMethod, page, write_page
from igan_fast.app.paper.timing import Seconds, TrainingTime, TrainingTimes
from igan_fast.errors import InputError
from igan_fast.metrics import IdentityScale

METHODS = (
    TrainedMethod("iterative GAN", True, 8.0, 1234, 64, {"learning rate": "2e-4", "width": "64"}, "Sec. 4"),
    TrainedMethod("StarGAN", False, None, None, None, {}, "Choi et al. 2018"),
)
EXPERIMENT = Experiment(
    data="7,500 photos in a|b", split="val", photos=700, training_photos=6800, image_size=64, attributes=40, minutes=8,
    machine="2 cores", software="PyTorch 2.10", methods=METHODS, judges=("plain CNN: 12 epochs",),
    identity="not measured: pip install dlib-bin", comparison="features of EfficientNet-Lite0",
)  # fmt: skip


@dataclass(frozen=True)
class Odd:
    """Numbers with everything that needs care."""

    value: float = float("nan")
    nested: dict[str, tuple[float, ...]] = field(default_factory=lambda: {"a|b": (1.0, float("inf"))})
    failed: dict[str, str] = field(default_factory=lambda: {"StarGAN": "StarGAN: its images are NaN"})
    title = "Figure 9: [odd] *names*"
    shown = "Attributes: 5_o_Clock_Shadow, <b>, a|b, `x`, $y$."

    def tables(self) -> tuple[Table, ...]:
        return (Table(("method", "<i>"), (("a|b", "_x_"), ("line\nend", "-")), "By #hand*"),)


def links(text: str) -> list[str]:
    return re.findall(r"!?\[[^\n]*?(?<!\\)\]\(([^)]*)\)", text)


def test_all_parts_are_on_the_page_in_order(drawn, tmp_path: Path) -> None:
    names = ("Smiling", "Bangs", "Male", "Eyeglasses", "Bald")
    ours = Ours(drawn.model)
    identities = IdentityScale(
        lambda images: images.mean(axis=(1, 2)), drawn.photos, drawn.photos, identities=drawn.people
    )
    figure_5 = ablation([ours], drawn.photos, identities=identities)
    figure_6 = single_attributes(ours, drawn.photos, drawn.labels, names, drawn.judges)
    seconds = Seconds(1.5, (1.0, 2.0), 3)
    times = TrainingTimes(64, 6800, (TrainingTime("iterative GAN", True, 64, 1, seconds, seconds.divided(0.01)),))
    drawing = Figure(figsize=(2, 1))
    drawing.subplots().plot([0, 1])
    parts = [
        Missing("figure-4", "Figure 4: recognition", "DCGAN is not trained yet"),
        Part("figure-5", *figure_5),
        Part("figure-6", *figure_6),
        Part("table-1", times),
        Part("figure-9", Odd(), drawing),
    ]
    files = write_page(tmp_path / "new", EXPERIMENT, parts)
    assert [path.name for path in files] == ["figure-5.png", "figure-6.png", "figure-9.png", "paper.json", "paper.md"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(path.name for path in files)
    text = files[-1].read_text(encoding="utf-8")
    assert text == page(EXPERIMENT, parts)
    assert links(text) == ["figure-5.png", "figure-6.png", "figure-9.png"]
    for link in links(text):
        with Image.open(tmp_path / "new" / link) as picture:
            picture.load()
            assert picture.format == "PNG"
    with Image.open(files[0]) as saved:
        np.testing.assert_array_equal(np.asarray(saved), np.asarray(figure_5[1]))
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    assert headings == ["The paper's experiments", "Protocol", "Figure 4: recognition",
                        "Figure 5: which losses rebuilds need", "Figure 6: single attributes", "Table 1: training time",
                        r"Figure 9: \[odd\] \*names\*"]  # fmt: skip
    assert "**Missing:** DCGAN is not trained yet" in text
    assert "**Missing:** StarGAN: its images are NaN" in text
    # The protocol comes first, and ours is marked.
    assert text.index("as many iterations as fill 8 minutes on this machine") < text.index("## Figure 4")
    assert "| ▶ iterative GAN (ours) | 8 | 1,234 | 64 | learning rate 2e-4, width 64 | Sec. 4 |" in text
    assert "| StarGAN | – | – | – | – | Choi et al. 2018 |" in text
    assert "also where ours loses" in text
    assert "| ▶ iterative GAN (ours) | 1 | 64 | 1.5 s (1–2) | 150 s (100–200) |" in text
    # Every number of the tables is there, with its interval.
    for part in parts[1:4]:
        for table in part.numbers.tables():
            for row in table.rows:
                assert f"| {' | '.join(row)} |".replace("_", "\\_") in text.replace("_", "\\_")


def test_odd_characters_are_escaped() -> None:
    text = page(EXPERIMENT, [Part("figure-9", Odd(), Image.new("RGB", (2, 2)))])
    assert r"Attributes: 5_o_Clock_Shadow, \<b\>, a\|b, \`x\`, \$y\$." in text
    assert r"7,500 photos in a\|b; 6,800 training photos" in text
    assert "| method | \\<i\\> |\n| --- | ---: |\n| a\\|b | \\_x\\_ |\n| line\\\\nend | - |\n" in text
    assert r"![Figure 9: \[odd\] \*names\*](figure-9.png)" in text


def test_json_is_read_back_as_it_was(coloured, tmp_path: Path) -> None:
    class Copy(Ours):
        def __init__(self) -> None:
            self.name, self.ours = "copy", False

        device = "cpu"

        def rebuild(self, images):
            return images

    numbers, picture = ablation([Copy()], coloured.photos)
    missing = Missing("table-3", "Table 3", "ä missing")
    write_page(tmp_path, EXPERIMENT, [Part("figure-5", numbers, picture), Part("figure-9", Odd()), missing])
    found = json.loads((tmp_path / "paper.json").read_bytes())
    assert list(found) == ["experiment", "figure-5", "figure-9", "table-3"]
    assert found["table-3"] == {"title": "Table 3", "missing": "ä missing"}
    assert found["experiment"] == json.loads(json.dumps(dataclasses.asdict(EXPERIMENT)))
    ours = found["figure-5"]
    assert (ours.pop("title"), ours.pop("shown")) == (numbers.title, numbers.shown)
    assert ours == json.loads(json.dumps(dataclasses.asdict(numbers)))
    assert Ablation(**{**ours, "methods": numbers.methods}) == numbers
    assert found["figure-9"]["value"] is None
    assert found["figure-9"]["nested"] == {"a|b": [1.0, None]}


@pytest.mark.parametrize("keys", [["a", "a"], ["../a"], [""], ["A"], ["experiment"], ["a/b"]])
def test_keys_are_names_of_files(keys: list[str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="parts: found the key"):
        write_page(tmp_path, EXPERIMENT, [Missing(key, "title", "reason") for key in keys])
    assert not list(tmp_path.iterdir())


def test_nothing_is_written_where_a_part_fails(tmp_path: Path) -> None:
    class Failing(Odd):
        def tables(self) -> tuple[Table, ...]:
            raise RuntimeError("no tables")

    with pytest.raises(RuntimeError, match="no tables"):
        write_page(tmp_path, EXPERIMENT, [Part("a", Odd(), Image.new("RGB", (2, 2))), Part("b", Failing())])
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file"):
        write_page(tmp_path / "file", EXPERIMENT, [])


def test_a_page_of_different_minutes_refers_to_the_table() -> None:
    text = page(dataclasses.replace(EXPERIMENT, minutes=None, judges=(), methods=()), [])
    assert "each network as long as the table says" in text
    assert "- Judges: none" in text
