"""A few iterations of ``igan-fast train`` on each form of data, and what the command says of bad data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from small_celeba import draw_photos

from igan_fast.app.cli import main

pytestmark = [
    pytest.mark.every_build,  # training calls the operators
    pytest.mark.usefixtures("no_optional_networks"),
]

TINY = ("--image-size", "32", "--width", "4", "--batch-size", "4", "--iterations", "3", "--device", "cpu")


def class_folders(root: Path) -> Path:
    for k, split in enumerate(("train", "val", "test")):
        for kind in ("Bald", "Smiling"):
            draw_photos(root / split / kind, [f"{kind}{k}{number}.jpg" for number in range(6)], size=(40, 48))
    return root


def trained(data: Path, run: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """Train, resume for an iteration, and score the test photos. Returns what the training says."""
    assert main(["train", "--data", str(data), "--run", str(run), *TINY, *options]) == 0
    output = capsys.readouterr().out
    assert main(["train", "--run", str(run), "--resume", "--iterations", "4"]) == 0
    scores = run / "scores.json"
    evaluate = [
        "evaluate",
        "--data",
        str(data),
        "--model",
        str(run),
        "--split",
        "test",
        "--judges",
        "0",
        "--device",
        "cpu",
    ]
    assert main([*evaluate, "--json", str(scores)]) == 0
    assert json.loads(scores.read_text())
    assert json.loads((run / "config.json").read_text())["iterations"] == 4
    return output


def test_class_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = class_folders(tmp_path / "faces")
    (data / "train" / "Smiling" / "link.jpg").symlink_to(data / "train" / "Bald" / "Bald00.jpg")
    output = trained(data, tmp_path / "run", capsys)
    assert f"36 photos (1 more is a link or copy of one) in {data}, 2 attributes (class folders)" in output
    assert "split by folder names: 12 train, 12 val, 12 test" in output


def test_a_zip_of_class_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class_folders(tmp_path / "work" / "faces")
    path = Path(shutil.make_archive(str(tmp_path / "faces"), "zip", tmp_path / "work"))
    output = trained(path, tmp_path / "run", capsys, "--attributes", "Smiling")
    assert f"36 photos in {path}, 1 attribute (class folders)" in output


def test_parquet_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from parquet_samples import IMAGE, write_parquet

    draw_photos(tmp_path / "work", [f"{number}.jpg" for number in range(24)], size=(40, 48))
    contents = [{"bytes": (tmp_path / "work" / f"{n}.jpg").read_bytes(), "path": f"{n}.jpg"} for n in range(24)]
    labels = np.random.default_rng(0).integers(0, 2, (24, 2)).astype(bool)
    for name, rows in (("train-0", range(12)), ("validation-0", range(12, 18)), ("test-0", range(18, 24))):
        columns = {"image": pa.array([contents[row] for row in rows], IMAGE), "celeb_id": list(rows)}
        for k, attribute in enumerate(("Bald", "Smiling")):
            columns[attribute] = labels[rows, k]
        write_parquet(tmp_path / "hub" / "data" / f"{name}.parquet", columns, row_group_size=5)
    output = trained(tmp_path / "hub", tmp_path / "run", capsys)
    assert f"24 photos in {tmp_path / 'hub'} (3 parquet files), 2 attributes, 24 people" in output
    assert "split by file names: 12 train, 6 val, 6 test" in output


def refused(data: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The message of a training that must fail as bad input fails."""
    run = data.parent / "run"
    assert main(["train", "--data", str(data), "--run", str(run), *TINY]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert not (run / "checkpoints").exists()
    return error


def test_a_single_class_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw_photos(tmp_path / "faces" / "Bald", size=(40, 48))
    assert "found one folder of photos (Bald) but no attribute file" in refused(tmp_path / "faces", capsys)


def test_a_test_split_alone_cannot_be_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("Bald", "Smiling"):
        draw_photos(tmp_path / "faces" / "test" / kind, [f"{kind}{number}.jpg" for number in range(3)], size=(40, 48))
    assert "no photo is left to train on" in refused(tmp_path / "faces", capsys)


def test_a_truncated_parquet_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    (tmp_path / "faces.parquet").write_bytes(b"PAR1 and no more")
    assert "is a truncated or damaged parquet file (16 bytes)" in refused(tmp_path / "faces.parquet", capsys)
