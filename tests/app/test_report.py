import dataclasses
import json
import os
import re
from pathlib import Path

import pytest
from PIL import Image

from igan_fast.app.report import (
    AttributeReport,
    Evaluation,
    IdentityReport,
    ImageSetReport,
    JudgedAttribute,
    JudgeReport,
    KIDReport,
    Recognition,
)
from igan_fast.checkpoint.additions import described_additions
from igan_fast.errors import InputError
from igan_fast.train import TrainConfig


def said(accuracy: float, threshold: float | None, *scores: float | None) -> JudgedAttribute:
    """What a judge says of an attribute: the scores at 0.5, those at the balanced threshold, and the changes."""
    names = (
        "recall_present",
        "recall_absent",
        "edit_confirmed",
        "unedited_confirmed",
        "balanced_recall_present",
        "balanced_recall_absent",
        "edit_confirmed_balanced",
        "unedited_confirmed_balanced",
        "edit_change",
        "change_of_others",
        "change_of_unrelated",
    )
    fields = dict(zip(names, scores, strict=True))
    return JudgedAttribute(accuracy=accuracy, balanced_threshold=threshold, **fields)  # type: ignore[arg-type]


def judge(name: str, hamming_loss: float, confirmed: float) -> JudgeReport:
    return JudgeReport(
        name=name,
        recognition=Recognition(hamming_loss, 1 - hamming_loss, 0.7654, None, (0.1, 0.123)),
        generated_hamming_loss=0.1567,
        generated_hamming_loss_interval=(0.15, 0.1612),
        recall_present=0.45,
        recall_absent=0.971,
        balanced_recall_present=0.81,
        balanced_recall_absent=0.82,
        edit_change=0.3,
        edit_change_interval=(-0.012, 0.34),
        edit_confirmed=confirmed,
        edit_confirmed_interval=(confirmed - 0.04, confirmed + 0.026),
        edit_confirmed_balanced=0.57,
        edit_confirmed_balanced_interval=None,
        unedited_confirmed=0.074,
        unedited_confirmed_balanced=None,
        change_of_others=0.0484,
        change_of_unrelated=0.031,
    )


def compared(value: float, images: int, fid: float | None = None) -> KIDReport:
    return KIDReport(
        features="plain CNN" if fid is None else "Inception",
        images=images,
        value=value,
        interval=None if images < 3 else (value - 0.01, value + 0.0021),
        subset_size=max(images // 2, 2),
        fid=fid,
    )


JUDGED = Evaluation(
    data="7,500 photos of somebody",
    split="val",
    photos=1234,
    image_size=48,
    checkpoint="runs/x/checkpoints/step-00012000",
    iteration=12000,
    additions=described_additions(TrainConfig().to_json()),
    edit_photos=150,
    edit_keep="nothing",
    edit_strength=1.5,
    edit_companions=True,
    model=Recognition(0.1301, 0.8699, 0.7123, 0.5432, (0.1251, 0.1349)),
    majority=Recognition(0.1929, 0.8071, 0.5, 0.2468),
    judges=(judge("plain CNN", 0.1118, 0.54), judge("second CNN", 0.1222, 0.61)),
    rebuild_l1=0.2871,
    rebuild_l1_interval=(0.28, 0.291),
    rebuild_psnr=15.25,
    rebuild_ssim=0.4123,
    rebuilt=ImageSetReport(1234, 1.04, 3.3, compared(0.0123, 1000)),
    edited=ImageSetReport(1234, 1.1, 4.444),
    generated=ImageSetReport(1234, 1.25, 5.5),
    training_photos=ImageSetReport(1000, None, None, compared(-0.000004, 2)),
    attributes=(
        AttributeReport(
            "Smiling",
            0.48,
            0.52,
            0.9,
            0.91,
            0.89,
            ("High_Cheekbones",),
            (
                said(0.92, 0.41, 0.86, 0.97, 0.83, 0.07, 0.9, 0.9, 0.86, 0.11, 0.61, 0.05, 0.043),
                said(0.93, 0.39, 0.87, 0.96, 0.79, 0.08, 0.92, 0.91, 0.8, 0.12, 0.58, 0.06, 0.051),
            ),
        ),
        AttributeReport(
            "Bald",
            0.0,
            1.0,
            0.98,
            0.98,
            None,
            (),
            (
                said(0.97, None, None, 0.97, 0.25, 0.0, None, None, None, None, -0.01, 0.02, None),
                said(0.96, None, None, 0.96, 1.0, 0.01, None, None, None, None, 0.04, 0.02, None),
            ),
        ),
    ),
)
IDENTITY = IdentityReport(
    embedder="dlib's ResNet",
    photos=1200,
    reference_size=178,
    people_known=True,
    floor=0.25,
    floor_interval=(0.244, 0.26),
    ceiling=0.85,
    ceiling_interval=(0.84, 0.86),
    rebuilt=0.6,
    rebuilt_interval=(0.59, 0.61),
    edited=0.651,
    edited_interval=None,
)
ONE = dataclasses.replace(
    JUDGED,
    judges=JUDGED.judges[:1],
    attributes=tuple(dataclasses.replace(row, judges=row.judges[:1]) for row in JUDGED.attributes),
)
UNJUDGED = dataclasses.replace(
    JUDGED,
    judges=(),
    edit_photos=0,
    edit_companions=False,
    attributes=(AttributeReport("Smiling", 0.48, 0.52, 0.9, 0.91, 0.89),),
)
UNCOMPARED = ImageSetReport(1234, 1.0, None)
UNJUDGED_AND_UNCOMPARED = dataclasses.replace(UNJUDGED, rebuilt=UNCOMPARED, training_photos=UNCOMPARED)


def test_the_scores_of_the_first_judge_have_short_names() -> None:
    assert JUDGED.judge == JUDGED.judges[0].recognition
    assert (JUDGED.edit_change, JUDGED.edit_confirmed, JUDGED.generated_hamming_loss) == (0.3, 0.54, 0.1567)
    row = JUDGED.attributes[0]
    assert (row.judge_accuracy, row.edit_change, row.edit_confirmed) == (0.92, 0.61, 0.83)
    row = UNJUDGED.attributes[0]
    assert UNJUDGED.judge is UNJUDGED.edit_change is UNJUDGED.edit_confirmed is UNJUDGED.generated_hamming_loss is None
    assert row.judge_accuracy is row.edit_change is row.edit_confirmed is None


def test_json_holds_every_field_and_no_nan() -> None:
    values = json.loads(dataclasses.replace(JUDGED, rebuild_psnr=float("inf"), rebuild_ssim=float("nan")).to_json())
    assert values["rebuild_psnr"] is None
    assert values["rebuild_ssim"] is None
    assert values["rebuild_l1_interval"] == [0.28, 0.291]
    assert values["edit_strength"] == 1.5
    assert values["edit_companions"] is True
    assert values["judge"]["hamming_loss_interval"] == [0.1, 0.123]
    assert values["judge"]["f1"] is None
    assert values["edited"] == {"images": 1234, "grain": 1.1, "frechet_in_judge": 4.444, "kid": None}
    assert values["rebuilt"]["kid"]["interval"] == pytest.approx([0.0023, 0.0144])
    assert values["rebuilt"]["kid"]["features"] == "plain CNN"
    assert values["rebuilt"]["kid"]["fid"] is values["training_photos"]["kid"]["interval"] is None
    assert values["identity"] is None
    assert values["missing"] == []
    measured = json.loads(dataclasses.replace(JUDGED, identity=IDENTITY, missing=("dlib",)).to_json())
    assert measured["identity"]["ceiling_interval"] == [0.84, 0.86]
    assert measured["missing"] == ["dlib"]
    assert values["judges"][1]["edit_confirmed_interval"] == [pytest.approx(0.57), pytest.approx(0.636)]
    assert values["judges"][1]["edit_confirmed_balanced_interval"] is None
    assert set(values["judges"][0]) == {field.name for field in dataclasses.fields(JudgeReport)}
    smiling, bald = values["attributes"]
    assert smiling["companions"] == ["High_Cheekbones"]
    assert smiling["judges"][1]["balanced_threshold"] == 0.39
    assert set(smiling["judges"][0]) == {field.name for field in dataclasses.fields(JudgedAttribute)}
    assert (bald["name"], bald["edit_change"], bald["f1"]) == ("Bald", -0.01, None)
    assert values["edit_change"] == pytest.approx(0.3)
    fields = {field.name for field in dataclasses.fields(Evaluation)}
    assert set(values) == fields | {"judge", "generated_hamming_loss", "edit_change", "edit_confirmed"}
    alone = json.loads(UNJUDGED.to_json())
    assert alone["judge"] is None
    assert alone["judges"] == []


def test_json_holds_a_path_that_is_no_text() -> None:
    path = os.fsdecode(b"runs/caf\xe9")
    text = dataclasses.replace(JUDGED, checkpoint=path, data="7 photos in Köln").to_json()
    assert text.isascii()
    assert os.fsencode(json.loads(text)["checkpoint"]) == b"runs/caf\xe9"
    assert json.loads(text)["data"] == "7 photos in Köln"


def test_the_table_prints_protocol_and_scores() -> None:
    text = JUDGED.table()
    lines = text.splitlines()
    assert max(map(len, lines)) <= 120
    assert lines[0].split() == ["Data", "7,500", "photos", "of", "somebody"]
    assert "split val: 1,234 photos at 48×48, 2 attributes; in brackets: 95 % intervals" in lines[1]
    assert "strength 1.5, companions move along; judged on 150 of the photos" in lines[2]
    assert lines[3].endswith("runs/x/checkpoints/step-00012000, iteration 12,000")
    assert lines[4].startswith("Additions --film True --edited-share 0.75 ")
    assert lines[5].endswith("(to the paper)")
    assert "plain CNN and second CNN, each trained on real training photos only" in lines[6]

    def cells(start: str, number: int = 0) -> list[str]:
        """The cells of the line that begins so, of several the one with this number."""
        line = [line for line in lines if line.startswith(start)][number]
        return [cell.strip() for cell in line[len(start) :].split("  ") if cell.strip()]

    assert cells("Recognition") == ["model", "majority", "plain CNN", "second CNN"]
    with_interval = ["0.1118 (0.1000–0.1230)", "0.1222 (0.1000–0.1230)"]
    assert cells("Hamming loss") == ["0.1301 (0.1251–0.1349)", "0.1929", *with_interval]
    assert cells("F1") == ["0.5432", "0.2468", "–", "–"]
    assert "Rebuilds: L1 0.287 (0.280–0.291) (images in [−1, 1]), PSNR 15.25 dB, SSIM 0.412" in lines
    assert cells("Grain") == ["1.04", "1.10", "1.25", "–"]
    assert cells("Fréchet distance in the judge (not FID)") == ["3.30", "4.44", "5.50", "–"]
    assert cells("Flips confirmed") == ["54 % (50–57)", "61 % (57–64)"]
    assert cells("  without an edit", 0) == ["7 %", "7 %"]
    assert cells("  the judge's own recall on photos", 0) == ["45 %, absent 97 %"] * 2
    assert cells("At the balanced threshold: confirmed") == ["57 %", "57 %"]
    assert cells("  without an edit", 1) == ["–", "–"]
    assert cells("  the judge's own recall on photos", 1) == ["81 %, absent 82 %"] * 2
    assert cells("Change of the probability") == ["+0.300 (-0.012–0.340)"] * 2
    assert cells("  of the other attributes") == ["0.048"] * 2
    assert cells("  of those that are no companions either") == ["0.031"] * 2
    assert cells("Hamming loss on generated faces") == ["0.1567 (0.1500–0.1612)"] * 2
    rows = [line.split() for line in lines]
    recognition, bald = [row for row in rows if row[:1] == ["Smiling"]], [row for row in rows if row[:1] == ["Bald"]]
    assert recognition[0][1:] == ["0.480", "0.520", "0.900", "0.910", "0.890", "0.920", "0.930"]
    assert bald[0][1:] == ["0.000", "1.000", "0.980", "0.980", "–", "0.970", "0.960"]
    edits = ["86/87", "83/79", "7/8", "0.41/0.39", "90/92", "86/80", "11/12", "+61/+58", "4.3/5.1"]
    assert recognition[1][1:] == edits
    assert bald[1][1:] == ["–/–", "25/100", "0/1", "–/–", "–/–", "–/–", "–/–", "-1/+4", "–/–"]
    assert lines[-5] == "Edits by attribute (plain CNN/second CNN)"
    assert lines[-3].startswith("Edits ")
    assert len({len(line) for line in lines[-4:]}) == 1


def rows(evaluation: Evaluation, count: int, *starts: str) -> list[list[str]]:
    """The last cells of the lines that begin so."""
    lines = evaluation.table().splitlines()
    assert max(map(len, lines)) <= 120
    found = [next(line for line in lines if line.startswith(start)) for start in starts]
    return [re.split(r"  +", line)[-count:] for line in found]


def test_the_table_says_in_which_features_the_kid_is_measured() -> None:
    title = "KID × 1000 in plain CNN (not FID)"
    values, intervals = rows(JUDGED, 4, title, "  95 % of random subsets of 500 of 1,000")
    assert values == ["12.30", "–", "–", "0.00"]
    assert intervals == ["2.30–14.40", "–", "–", "–"]
    assert "FID (Inception)" not in JUDGED.table()
    true = dataclasses.replace(JUDGED, generated=ImageSetReport(9, 1.0, 2.0, compared(0.02, 9, 123.456)))
    true = dataclasses.replace(true, rebuilt=true.generated, training_photos=ImageSetReport(9, 1.0, 2.0))
    values, fids = rows(true, 4, "KID × 1000 (Inception)", "FID (Inception)")
    assert values == ["20.00", "–", "20.00", "–"]
    assert fids == ["123.46", "–", "123.46", "–"]
    assert "KID" not in UNJUDGED_AND_UNCOMPARED.table()


def test_the_table_has_identity_between_floor_and_ceiling() -> None:
    named = dataclasses.replace(JUDGED, identity=IDENTITY)
    titles, cells = rows(named, 4, "Identity (dlib's ResNet)", "Distance from the photo")
    assert titles == ["floor", "rebuilt", "edited", "ceiling"]
    assert cells == ["0.25 (0.24–0.26)", "0.60 (0.59–0.61)", "0.65", "0.85 (0.84–0.86)"]
    meaning = "  1,200 photos at 178×178; floor: the same photo at 48×48; ceiling: another person's photo"
    assert meaning in named.table().splitlines()
    unknown = dataclasses.replace(IDENTITY, people_known=False, ceiling=None, ceiling_interval=None)
    text = dataclasses.replace(JUDGED, identity=unknown).table()
    assert "ceiling: another photo\n" in text
    assert "None" not in text


def test_the_table_says_what_is_missing() -> None:
    line = "identity: dlib's network cannot be loaded (No module named 'dlib'); pip install one-package another-package"
    text = dataclasses.replace(JUDGED, missing=(line, "KID: no weights")).table()
    assert max(map(len, text.splitlines())) <= 120
    assert f"Missing   {line} Missing   KID: no weights" in re.sub(r"\n( {10})?", " ", text)
    assert "Missing" not in JUDGED.table()


def test_numbers_that_round_to_zero_have_no_minus_and_equal_ones_have_equal_digits() -> None:
    share = 0.075
    first = dataclasses.replace(
        JUDGED.judges[0],
        edit_confirmed=share,
        edit_confirmed_interval=(share * (1 - 1e-15), share),
        edit_change=-0.0001,
        edit_change_interval=(-0.0002, 0.0001),
    )
    text = dataclasses.replace(ONE, judges=(first,)).table()
    assert "8 % (8–8)" in text
    assert "+0.000 (0.000–0.000)" in text


def test_the_table_of_one_judge() -> None:
    lines = ONE.table().splitlines()
    assert "plain CNN, trained on real training photos only" in lines[6]
    last = lines[-2].split()
    assert last == ["Smiling", "86", "83", "7", "0.41", "90", "86", "11", "+61", "4.3"]
    assert not any("second" in line for line in lines)


def test_without_a_judge_the_table_says_nothing_of_one() -> None:
    text = UNJUDGED_AND_UNCOMPARED.table()
    for word in ("judge", "Judge", "CNN", "confirmed", "Fréchet"):
        assert word not in text
    assert "strength 1.5, without companions\n" in text
    assert "Grain" in text
    assert text.splitlines()[-1].split() == ["Smiling", "0.480", "0.520", "0.900", "0.910", "0.890"]


@pytest.mark.parametrize("evaluation", [JUDGED, ONE, UNJUDGED])
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
