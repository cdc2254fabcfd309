"""What a saved config says of the additions to the paper, also one that an older version wrote."""

from igan_fast.app import cli
from igan_fast.app.commands import Train
from igan_fast.checkpoint.additions import OFF, described_additions, options_missing, with_older_values
from igan_fast.train import TrainConfig


def test_the_default_preset_as_it_would_be_typed() -> None:
    saved = TrainConfig().to_json()
    assert described_additions(saved) == (
        "--film True --edited-share 0.75 --flip-weight 4 --r1 0.1 --latent-lr-scale 3 --label-weight-fake 0"
    )
    assert options_missing(saved) == []
    assert with_older_values(saved) == saved


def test_the_papers_preset_and_a_run_of_an_older_version_have_none() -> None:
    assert described_additions(TrainConfig(preset="paper", flip_weight=3.0).to_json()) == "none"
    older = {"label_weight_d": 40.0, "lr": 2e-4}
    assert described_additions(older) == "none"
    assert with_older_values(older)["label_weight_fake"] == 40.0
    assert options_missing(older) == [
        "--film", "--edited-share", "--flip-weight", "--r1", "--latent-lr-scale", "--label-weight-fake",
    ]  # fmt: skip


def test_without_a_config_they_are_unknown() -> None:
    assert described_additions({}) == "unknown"


def test_an_older_run_with_the_papers_preset_is_resumed_from_its_own_options() -> None:
    """``TrainConfig(preset="paper")`` has None, which means the weight on photos."""
    older = {name: value for name, value in TrainConfig(preset="paper").to_json().items() if name not in OFF}
    del older["label_weight_fake"], older["r1_every"]
    saved = TrainConfig.from_json(older, complete=True)
    TrainConfig(preset="paper").check_resumable(saved)
    assert saved.step_config().fake_label_weight == 1.0


def test_they_can_be_typed_as_they_are_described() -> None:
    words = described_additions(TrainConfig().to_json()).split()
    command = cli._parse(["train", "--preset", "paper", *words])
    assert isinstance(command, Train)
    assert described_additions(command.config.to_json()).split() == words
