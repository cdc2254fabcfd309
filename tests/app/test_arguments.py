"""What is typed after a command: every word counts, or one line says why it cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from no_warnings import no_warning

from igan_fast.app import cli
from igan_fast.app.commands import Generate, Recognise, Train, Transform
from igan_fast.errors import InputError
from igan_fast.train.config import TrainConfig


def parsed(*words: object) -> Any:
    """The command, or the config of ``train``; any warning is an error."""
    with no_warning():
        command = cli._parse([str(word) for word in words])
    return command.config if isinstance(command, Train) else command


GENERATE = ("generate", "--model", "run", "--out", "faces")
TRANSFORM = ("transform", "--model", "run", "--out", "faces")


@pytest.mark.parametrize(
    "words",
    [
        ["--set", "Smiling=1", "Male=0"],
        ["--set", "Smiling=1", "--set", "Male=0"],
        ["--set=Smiling=1", "--set=Male=0"],
        ["--set=Smiling=1", "Male=0"],
        ["--set", "Smiling=1,Male=0"],
        ["--set", "Smiling=1,", "Male=0"],
        ["--set", "Smiling=1", "--seed", "0", "--set", "Male=0"],
    ],
)
def test_a_list_is_taken_whole_however_it_is_given(words: list[str]) -> None:
    assert parsed(*GENERATE, *words) == Generate(Path("run"), Path("faces"), attributes=("Smiling=1", "Male=0"))


@pytest.mark.parametrize("name", ["attributes", "sample_attributes"])
@pytest.mark.parametrize("spelling", ["--NAME A --NAME B C", "--NAME=A --NAME=B,C", "--NAME A,B --seed 3 --NAME C"])
@pytest.mark.parametrize("command", ["train", "baseline"])
def test_every_list_of_training_too(command: str, name: str, spelling: str) -> None:
    for option in (name, name.replace("_", "-")):
        words = spelling.replace("NAME", option).split()
        assert getattr(parsed(command, *words), name) == ("A", "B", "C")


def test_both_lists_of_an_interpolation() -> None:
    found = parsed("interpolate", "p", "--model", "m", "--out", "o", "--from", "A=-1", "B=0", "--set", "A=+1,B=1")
    assert (found.start, found.attributes) == (("A=-1", "B=0"), ("A=+1", "B=1"))


def test_a_comma_inside_a_name_stays() -> None:
    assert parsed("train", "--attributes", "Beard, long", "Male").attributes == ("Beard, long", "Male")


def test_every_list_option_that_there_is() -> None:
    """So that one that is added later is tested above."""
    from igan_fast.app.arguments import _options

    lists = {
        (name, option.name)
        for name, fields in cli.COMMANDS.items()
        for option in _options(fields).values()
        if option.many and not option.positional
    }
    of_training = {(command, name) for command in ("train", "baseline") for name in ("attributes", "sample-attributes")}
    of_interpolate = {("interpolate", "from"), ("interpolate", "set")}
    assert lists == {("generate", "set"), ("transform", "set"), *of_interpolate, *of_training}


@pytest.mark.parametrize(
    "words",
    [
        ["a.jpg", "--set", "Smiling=1"],
        ["--set", "Smiling=1", "a.jpg"],
        ["--set=Smiling=1", "a.jpg"],
        ["--set", "a.jpg", "Smiling=1"],
    ],
)
def test_a_list_does_not_take_the_photo(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jpg").touch()
    (tmp_path / "Smiling=1").touch()  # a file with such a name does not make it a photo
    assert parsed(*TRANSFORM, *words) == Transform((Path("a.jpg"),), Path("run"), Path("faces"), ("Smiling=1",))


def test_photos_may_stand_anywhere_and_begin_with_anything() -> None:
    recognise = parsed("recognise", "a.jpg", "--model", "run", "b.jpg", "--", "-c.jpg", "--force")
    assert recognise == Recognise((Path("a.jpg"), Path("b.jpg"), Path("-c.jpg"), Path("--force")), Path("run"))


@pytest.mark.parametrize(
    ("words", "field", "value", "message"),
    [
        (["--seed", "1", "--seed", "2"], "seed", 2, "--seed is given more than once; the last, 2, is taken"),
        (["--seed=1", "--seed", "2"], "seed", 2, "--seed is given more than once"),
        (["--betas", ".1", ".2", "--betas", ".3", ".4"], "betas", (0.3, 0.4), "the last, .3 .4, is taken"),
        (["--balance", "--no-balance"], "balance", False, "--balance is given more than once; the last is taken"),
        (["--drawn-count", "9", "--drawn_count", "8"], "drawn_count", 8, "--drawn-count is given more than once"),
    ],
)
def test_of_other_options_the_last_counts_and_a_warning_says_so(
    words: list[str], field: str, value: object, message: str
) -> None:
    with pytest.warns(UserWarning, match=message):
        command = cli._parse(["train", *words])
    assert isinstance(command, Train)
    assert getattr(command.config, field) == value


def test_the_same_twice_is_once() -> None:
    assert parsed("train", "--seed", "2", "--seed=2", "--resume", "--resume", "--run", "x").seed == 2


def test_short_and_attached_values() -> None:
    for words in (["-n", "5"], ["-n5"], ["-n=5"], ["--n=5"], ["--n", "5"]):
        assert parsed(*GENERATE, *words).n == 5
    assert parsed("train", "--signed-labels", "None").signed_labels is True  # as the preset has it
    assert parsed("train", "--no-balance", "--lambdas", "1", "2", "3").lambdas == (1.0, 2.0, 3.0)
    assert parsed("doctor", "--json", "-").json == Path("-")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train --seeed 3", "--seeed: train has no such option; did you mean --seed?"),
        ("train --colour 3", "--colour: train has no such option; igan-fast train --help lists them"),
        ("train --no-strickt", "--no-strickt: train has no such option; did you mean --no-strict?"),
        ("transform --attributes A=1", "--attributes: transform has no such option; did you mean --set?"),
        ("generate --no-force", "--no-force: generate has no such option; did you mean --force?"),
        ("generate -x 3", "-x: generate has no such option"),
        ("train --width wide", "--width: found 'wide', expected a whole number below 2⁶³"),
        ("train --width 6.5", "--width: found '6.5', expected a whole number below 2⁶³"),
        ("train --lr fast", "--lr: found 'fast', expected a number"),
        ("train --preset papr", "--preset: found 'papr', expected default or paper; did you mean paper?"),
        ("generate --device gpu", "--device: found 'gpu', expected auto, cpu or cuda"),
        ("generate --device CUDA", "--device: found 'CUDA', expected auto, cpu or cuda; did you mean cuda?"),
        ("train --signed-labels yes", "--signed-labels: found 'yes', expected True or False"),
        ("train --betas 1", "--betas: found 1 value, expected 2 numbers"),
        ("train --seed", "--seed: found no value, expected a whole number below 2⁶³"),
        ("train --seed --resume", "--seed: found no value, expected a whole number below 2⁶³"),
        ("transform --set --model run", "--set: found no value, expected at least one NAME=VALUE"),
        ("train --resume=True", "--resume: takes no value, found 'True'"),
        ("train photos", "photos: train takes options only"),
        ("generate", "generate needs --model RUN, --out FILE.png|DIR too"),
        ("transform", "transform needs PHOTO, --model RUN, --out DIR|FILE.png, --set NAME=VALUE too"),
        (
            "transform --model m --out o --set A=1 gone.jpg",
            "--set: found 'gone.jpg', which is not NAME=VALUE, and no photo",
        ),
        (
            "transform --model m --out o --set A=1,gone.jpg",
            "--set: found 'gone.jpg', which is not NAME=VALUE, and no photo",
        ),
        ("train --width 1" + "0" * 27, "--width: found '1000000000000000000000000000', expected a whole number below"),
        ("generate --seed -9223372036854775808", "--seed: found '-9223372036854775808', expected a whole number below"),
        ("train --width " + "9" * 5000, "--width: found '9999999999999999999999999999999999999…', expected a whole"),
    ],
)
def test_what_cannot_be_read_is_one_line(words: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        parsed(*words.split())
    assert str(error.value).startswith(message)


def test_a_folder_without_its_option(tmp_path: Path) -> None:
    for command, option in (("train", "--data"), ("generate", "--model")):
        with pytest.raises(InputError, match=f"takes options only; did you mean {option} {tmp_path}"):
            parsed(command, tmp_path)


#: Every option that takes a path, and what else its command needs.
PATHS = [
    ("train", "run", []), ("train", "cache", []), ("train", "data", []), ("train", "init", []),
    ("recognise", "model", ["p"]), ("recognise", "json", ["p", "--model", "m"]),
    ("generate", "model", ["--out", "o"]), ("generate", "out", ["--model", "m"]),
    ("rebuild", "model", ["p", "--out", "o"]), ("rebuild", "out", ["p", "--model", "m"]),
    ("rebuild", "grid", ["p", "--model", "m", "--out", "o"]),
    ("transform", "model", ["p", "--out", "o", "--set", "A=1"]),
    ("transform", "out", ["p", "--model", "m", "--set", "A=1"]),
    ("transform", "grid", ["p", "--model", "m", "--out", "o", "--set", "A=1"]),
    ("interpolate", "model", ["p", "--out", "o", "--set", "A=1"]),
    ("interpolate", "out", ["p", "--model", "m", "--set", "A=1"]),
    ("web", "model", []), ("export", "model", ["--out", "o"]), ("export", "out", ["--model", "m"]),
    ("evaluate", "model", []), ("evaluate", "json", ["--model", "m"]), ("evaluate", "plot", ["--model", "m"]),
    ("evaluate", "inception", ["--model", "m"]),
    ("baseline", "run", []), ("baseline", "cache", []), ("baseline", "data", []), ("baseline", "init", []),
    ("paper", "out", []), ("paper", "cache", ["--out", "o"]), ("paper", "inception", ["--out", "o"]),
    ("doctor", "json", []),
]  # fmt: skip


@pytest.mark.parametrize(("command", "option", "others"), PATHS)
def test_a_home_and_an_empty_path_in_every_path_option(
    command: str, option: str, others: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for words in ([f"--{option}=~/x y"], [f"--{option}", "~/x y"]):
        if option == "init":  # the run there gives the defaults of other options
            with pytest.raises(InputError, match="--init /home/me/x y: no such folder"):
                parsed(command, *others, *words)
            continue
        assert str(getattr(parsed(command, *others, *words), option)) == "/home/me/x y"
    if option == "data":  # said when the data are opened, with what else --data may be
        assert parsed(command, "--data", "").data == ""
        return
    for words in ([f"--{option}="], [f"--{option}", ""]):
        with pytest.raises(InputError, match=f"--{option}: is empty"):
            parsed(command, *others, *words)


def test_every_path_option_is_tested() -> None:
    from igan_fast.app.arguments import _options

    known = {
        (name, key) for name, fields in cli.COMMANDS.items() for key, o in _options(fields).items() if Path in o.items
    }
    assert {*((command, option) for command, option, _ in PATHS)} - {("train", "data"), ("baseline", "data")} == {
        pair for pair in known if pair[1] != "photos"
    }


def test_a_home_among_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert parsed("recognise", "~/a.jpg", "--model", "m").photos == (Path("/home/me/a.jpg"),)


def test_the_defaults_of_a_continued_run_are_found_below_a_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import json

    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.json").write_text(json.dumps(TrainConfig(width=7).to_json()))
    assert parsed("train", "--run=~/run", "--resume").width == 7
