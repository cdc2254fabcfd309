import dataclasses
import json
import os
from pathlib import Path

import pytest
from PIL import Image

from igan_fast.app.report import AttributeReport, Evaluation, Recognition
from igan_fast.errors import InputError

JUDGED = Evaluation(
    data="7,500 photos of somebody",
    split="val",
    photos=1234,
    image_size=48,
    checkpoint="runs/x/checkpoints/step-00012000",
    iteration=12000,
    edit_photos=150,
    model=Recognition(0.1301, 0.8699, 0.7123, 0.5432),
    majority=Recognition(0.1929, 0.8071, 0.5, 0.2468),
    judge=Recognition(0.1118, 0.8882, 0.7654, None),
    rebuild_l1=0.2871,
    rebuild_psnr=15.25,
    rebuild_ssim=0.4123,
    generated_hamming_loss=0.1567,
    attributes=(
        AttributeReport("Smiling", 0.48, 0.52, 0.9, 0.91, 0.89, 0.92, 0.61, 0.83),
        AttributeReport("Bald", 0.0, 1.0, 0.98, 0.98, None, 0.97, -0.01, 0.25),
    ),
)
UNJUDGED = dataclasses.replace(
    JUDGED,
    judge=None,
    edit_photos=0,
    generated_hamming_loss=None,
    attributes=(AttributeReport("Smiling", 0.48, 0.52, 0.9, 0.91, 0.89),),
)


def test_means_of_the_edits() -> None:
    assert JUDGED.edit_change == pytest.approx(0.3)
    assert JUDGED.edit_confirmed == pytest.approx(0.54)
    assert UNJUDGED.edit_change is None
    assert UNJUDGED.edit_confirmed is None


def test_json_holds_every_field_and_no_nan() -> None:
    values = json.loads(dataclasses.replace(JUDGED, rebuild_psnr=float("inf"), rebuild_ssim=float("nan")).to_json())
    assert values["rebuild_psnr"] is None
    assert values["rebuild_ssim"] is None
    assert values["judge"] == {"hamming_loss": 0.1118, "accuracy": 0.8882, "balanced_accuracy": 0.7654, "f1": None}
    assert values["attributes"][1]["name"] == "Bald"
    assert values["attributes"][1]["edit_change"] == -0.01
    assert values["attributes"][1]["f1"] is None
    assert values["edit_change"] == pytest.approx(0.3)
    fields = {field.name for field in dataclasses.fields(Evaluation)}
    assert set(values) == fields | {"edit_change", "edit_confirmed"}
    assert json.loads(UNJUDGED.to_json())["judge"] is None


def test_json_holds_a_path_that_is_no_text() -> None:
    path = os.fsdecode(b"runs/caf\xe9")
    text = dataclasses.replace(JUDGED, checkpoint=path, data="7 photos in Köln").to_json()
    assert text.isascii()
    assert os.fsencode(json.loads(text)["checkpoint"]) == b"runs/caf\xe9"
    assert json.loads(text)["data"] == "7 photos in Köln"


def test_the_table_prints_protocol_and_scores() -> None:
    lines = JUDGED.table().splitlines()
    assert lines[0].split() == ["Data", "7,500", "photos", "of", "somebody"]
    assert "split val: 1,234 photos at 48×48, 2 attributes; edits on 150 of them" in lines[1]
    assert lines[2].endswith("runs/x/checkpoints/step-00012000, iteration 12,000")
    rows = {line.split("  ")[0]: line.split() for line in lines}
    assert rows["Recognition"][1:] == ["model", "majority", "plain", "CNN"]
    assert rows["Hamming loss"][2:] == ["0.1301", "0.1929", "0.1118"]
    assert rows["F1"][1:] == ["0.5432", "0.2468", "–"]
    assert rows["Smiling"] == ["Smiling", "0.480", "0.520", "0.900", "0.910", "0.890", "0.920", "+0.610", "0.830"]
    assert rows["Bald"] == ["Bald", "0.000", "1.000", "0.980", "0.980", "–", "0.970", "-0.010", "0.250"]
    text = JUDGED.table()
    for part in (
        "L1 0.287",
        "PSNR 15.25 dB",
        "SSIM 0.412",
        "changes by +0.300",
        "confirms 54.0%",
        "asked for is 0.1567",
    ):
        assert part in text
    titles = next(line for line in lines if line.startswith("Attribute"))
    assert {len(line) for line in lines[lines.index(titles) :]} == {len(titles)}


def test_without_a_judge_the_table_says_nothing_of_one() -> None:
    text = UNJUDGED.table()
    assert "judge" not in text
    assert "CNN" not in text
    assert "edit" not in text
    assert text.splitlines()[-1].split() == ["Smiling", "0.480", "0.520", "0.900", "0.910", "0.890"]


@pytest.mark.parametrize("evaluation", [JUDGED, UNJUDGED])
def test_the_plot_is_a_picture_and_replaces_an_older_one(tmp_path: Path, evaluation: Evaluation) -> None:
    path = tmp_path / "scores.png"
    path.write_text("older")
    evaluation.plot(path)
    with Image.open(path) as image:
        assert min(image.size) > 200
        assert len(image.convert("RGB").getcolors(1 << 24)) > 50
    assert list(tmp_path.iterdir()) == [path]


def test_the_folder_of_a_plot_is_made(tmp_path: Path) -> None:
    JUDGED.plot(tmp_path / "new" / "folder" / "scores.png")
    assert (tmp_path / "new/folder/scores.png").stat().st_size > 1000


def test_a_plot_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"scores\.txt2: Matplotlib cannot write \.txt2"):
        JUDGED.plot(tmp_path / "scores.txt2")
    with pytest.raises(InputError, match="a file without suffix"):
        JUDGED.plot(str(tmp_path / "scores"))
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"):
        JUDGED.plot(tmp_path / "file" / "scores.png")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
