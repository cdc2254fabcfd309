"""The generated batch by hand: which rows are edited rebuilds, whose labels they have, and which are flipped."""

import pytest
import torch

from igan_fast.reference.edited_rebuilds import MOST_FLIPS, EditedRebuilds, draw_flips


def test_one_to_three_attributes_are_flipped_in_the_first_quarter_of_the_rows() -> None:
    flips = draw_flips(4000, 40, 0.5, generator=torch.Generator().manual_seed(0))
    assert flips.shape == (4000, 40)
    assert flips.dtype == torch.bool
    counts = flips.sum(1)
    assert not counts[1000:].any()
    shares = [(counts[:1000] == k).double().mean().item() for k in range(5)]
    assert shares == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3, 0], abs=0.06)
    each = flips[:1000].double().mean(0)  # every attribute is as likely as another: 2 of 40
    assert each == pytest.approx(torch.full((40,), 0.05), abs=0.03)


@pytest.mark.parametrize(
    ("n", "share", "rows"), [(64, 0.5, 16), (6, 0.5, 2), (5, 0.5, 2), (2, 0.5, 1), (2, 1, 1), (4, 1, 2), (8, 0, 0)]
)
def test_the_number_of_rows_with_flips(n: int, share: float, rows: int) -> None:
    assert int(draw_flips(n, 40, share).any(1).sum()) == rows


def test_with_fewer_than_three_attributes_all_may_be_flipped() -> None:
    flips = draw_flips(400, 1, 1.0)
    assert flips[:200].all()
    assert not flips[200:].any()
    assert draw_flips(400, 2, 1.0).sum(1).max() == min(2, MOST_FLIPS)


def test_the_same_generator_draws_the_same_flips_and_the_global_one_is_untouched() -> None:
    before = torch.get_rng_state()
    a, b = (draw_flips(64, 40, 0.5, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(a, b)
    assert torch.equal(torch.get_rng_state(), before)


def batch(n: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    labels = torch.tensor([[1.0, 0.0, 1.0]]).repeat(n, 1)
    noise = torch.arange(float(n)).view(n, 1).repeat(1, 2) / 10
    flips = torch.zeros(n, 3, dtype=torch.bool)
    flips[0, 1] = True
    return labels, noise, flips


def test_the_rows_by_hand() -> None:
    """4 rows, half of them edited: row 0 has its own photo's labels with one flipped, row 1 those of the new photos."""
    edited = EditedRebuilds(0.5)
    labels, noise, flips = batch()
    edited.keep(torch.full((4, 2), -0.5), torch.zeros(4, 3))
    z, c, flipped = edited.compose(labels, noise, flips)
    assert z.tolist() == [[-0.5, -0.5], [-0.5, -0.5], *noise[2:].tolist()]
    assert c.tolist() == [[0, 1, 0], [1, 0, 1], [1, 0, 1], [1, 0, 1]]
    assert flipped is not None
    assert torch.equal(flipped, flips)
    # What was given is unchanged.
    assert torch.equal(labels, batch()[0])
    assert torch.equal(noise, batch()[1])


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.float64])
def test_labels_of_every_dtype_are_flipped(dtype: torch.dtype) -> None:
    edited = EditedRebuilds(0.5)
    labels, noise, flips = batch()
    edited.keep(torch.zeros(4, 2), torch.zeros(4, 3).to(dtype))
    c = edited.compose(labels.to(dtype), noise, flips).c
    assert c.dtype == dtype
    assert c.tolist() == [[0, 1, 0], [1, 0, 1], [1, 0, 1], [1, 0, 1]]


def test_probabilities_are_flipped_as_an_edit_flips_them() -> None:
    edited = EditedRebuilds(0.5)
    labels, noise, flips = batch()
    flips[0] = True
    edited.keep(torch.zeros(4, 2), torch.tensor([[0.3, 0.5, 0.9]]).repeat(4, 1))
    assert edited.compose(labels, noise, flips).c[0].tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    "flips", [torch.zeros(3, 3, dtype=torch.bool), torch.zeros(3, dtype=torch.bool), torch.zeros(4, 3)]
)
def test_flips_of_another_shape_or_dtype_are_refused(flips: torch.Tensor) -> None:
    labels, noise, _ = batch()
    with pytest.raises(ValueError, match=r"flips: found torch\.\w+ \(.*\), expected torch\.bool \(4, 3\), as labels"):
        EditedRebuilds(0.5).compose(labels, noise, flips)


@pytest.mark.parametrize("kept", [None, 1])
def test_without_codes_or_with_those_of_a_smaller_batch_all_images_are_from_noise(kept: int | None) -> None:
    edited = EditedRebuilds(0.5)
    labels, noise, flips = batch()
    if kept is not None:
        edited.keep(torch.zeros(kept, 2), torch.zeros(kept, 3))
    z, c, flipped = edited.compose(labels, noise, flips)
    assert torch.equal(z, noise)
    assert torch.equal(c, labels)
    assert flipped is not None
    assert not flipped.any()


def test_a_larger_batch_before_is_enough() -> None:
    edited = EditedRebuilds(0.5)
    edited.keep(torch.ones(9, 2), torch.zeros(9, 3))
    assert edited.compose(*batch()).z[:2].tolist() == [[1, 1], [1, 1]]


def test_without_edited_rebuilds_nothing_is_drawn_copied_or_kept() -> None:
    edited = EditedRebuilds(0.0)
    labels, noise, _ = batch()
    before = torch.get_rng_state()
    z, c, flips = edited.compose(labels, noise, None)
    edited.keep(z, c)
    assert z is noise
    assert c is labels
    assert flips is edited.z is edited.labels is None
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_kept_is_a_copy_in_float32() -> None:
    edited = EditedRebuilds(0.5)
    z, labels = torch.ones(4, 2, dtype=torch.bfloat16), torch.ones(4, 3)
    edited.keep(z, labels)
    z.zero_()
    labels.zero_()
    assert edited.z is not None
    assert edited.labels is not None
    assert edited.z.dtype == torch.float32
    assert edited.z.all()
    assert edited.labels.all()
