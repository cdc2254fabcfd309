"""What a saved config says of the additions to the paper, also one that an older version wrote."""

from igan_fast.checkpoint.additions import described_additions, options_missing, with_older_values
from igan_fast.train import TrainConfig


def test_the_default_preset_as_it_would_be_typed() -> None:
    saved = TrainConfig().to_json()
    assert described_additions(saved) == (
        "--film --edited-share 0.5 --flip-weight 4 --r1 0.1 --latent-lr-scale 3 --label-weight-fake 0"
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


def test_a_model_that_no_run_trained_has_none() -> None:
    assert described_additions({}) == "none"
