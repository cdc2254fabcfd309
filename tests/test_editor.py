from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from vivid_models import vivid

from igan_fast import IterativeGAN
from igan_fast.checkpoint.labels import counted_labels
from igan_fast.data import to_float, to_uint8
from igan_fast.editor import FaceEditor
from igan_fast.errors import InputError
from igan_fast.reference import Companions
from igan_fast.reference.editing import Amount, Edit
from igan_fast.reference.residual import edited_photos
from igan_fast.train.save import save_checkpoint

NAMES = ("Smiling", "Eyeglasses", "Bangs", "Male")
SAMPLES = np.array([[0, 0, 0, 1], [1, 1, 0, 0], [0, 1, 1, 0]], np.uint8)
#: Bangs move by −1/2 and Smiling by 1/4 when Male moves by 1; Eyeglasses go along with nothing.
COMPANIONS = Companions(
    torch.tensor([[0.125, 0, 0, 0.0625], [0, 0.25, 0, 0], [0, 0, 0.25, -0.125], [0.0625, 0, -0.125, 0.25]])
)
#: The edit of the paper.
PLAIN = {"strength": 1.0, "companions": False}


@pytest.fixture(scope="module")
def model() -> IterativeGAN:
    """Untrained, but with vivid pictures and verdicts on both sides of 0.5."""
    torch.manual_seed(0)
    model = vivid(IterativeGAN(image_size=32, attributes=len(NAMES), latent=6, width=4))
    with torch.no_grad():
        model.classifier.labels.weight.mul_(100)
        logits = model.eval().encode(to_float(torch.from_numpy(pixels()))).label_logits
        model.classifier.labels.bias.sub_(logits.sort(dim=0).values[2:4].mean(dim=0))
    return model


@pytest.fixture
def editor(model: IterativeGAN) -> FaceEditor:
    return FaceEditor(model, NAMES, label_samples=SAMPLES)


def pixels(count: int = 7) -> np.ndarray:
    """(count, 32, 32, 3): blocks of colour, so that the pictures differ in what a network sees."""
    small = np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return small.repeat(8, axis=1).repeat(8, axis=2)


def direct(model: IterativeGAN, images: np.ndarray, changes: dict[int, object], **how: object) -> np.ndarray:
    with torch.no_grad():
        x = to_float(torch.from_numpy(images))
        return to_uint8(model.transform(x, changes, **how)).numpy()  # type: ignore[arg-type]


def as_arrays(pictures: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(picture) for picture in pictures])


def assert_same_pictures(found: np.ndarray, expected: np.ndarray) -> None:
    """Equal but for the rounding of another batch size, which may move a value to the next of 256 levels."""
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1


def test_the_model_of_these_tests_has_something_to_edit(model: IterativeGAN) -> None:
    plain = direct(model, pixels(), {})
    assert plain.std() > 20
    assert np.abs(plain.astype(int) - direct(model, pixels(), {1: "flip"})).max() > 10


def test_recognise_gives_the_model_s_probabilities(editor: FaceEditor, model: IterativeGAN) -> None:
    with torch.no_grad():
        expected = model.encode(to_float(torch.from_numpy(pixels()))).label_logits.sigmoid().numpy()
    found = editor.recognise(list(pixels()))
    assert [list(row) for row in found] == [list(NAMES)] * 7
    np.testing.assert_allclose([list(row.values()) for row in found], expected, atol=1e-5)
    assert (np.ptp(expected.round(), axis=0) == 1).all()  # each attribute is there in some and not in others


def test_rebuild_and_transform_are_the_model_s(editor: FaceEditor, model: IterativeGAN) -> None:
    photos = list(pixels())
    assert_same_pictures(as_arrays(editor.rebuild(photos)), direct(model, pixels(), {}))
    assert_same_pictures(as_arrays(editor.transform(photos, {}, keep="nothing")), direct(model, pixels(), {}))
    changed = editor.transform(photos, {"Eyeglasses": 1, "Bangs": "flip", "Smiling": 0.25}, keep="nothing", strength=1)
    assert_same_pictures(as_arrays(changed), direct(model, pixels(), {0: 0.25, 1: 1.0, 2: "flip"}))
    assert all(picture.mode == "RGB" and picture.size == (32, 32) for picture in changed)


def test_strength_and_companions_are_the_model_s(model: IterativeGAN) -> None:
    """The labels themselves are tested with ``edited_labels``."""
    photos, changes, by_index = list(pixels()), {"Male": "flip", "Eyeglasses": 0.25}, {3: "flip", 1: 0.25}
    editor = FaceEditor(model, NAMES, companions=COMPANIONS)
    pictures = []
    for given, expected in (
        ({}, {"strength": 2.0, "companions": COMPANIONS}),
        ({"strength": 3}, {"strength": 3.0, "companions": COMPANIONS}),
        ({"strength": np.float32(0), "companions": False}, {"strength": 0.0}),
        ({"companions": False}, {"strength": 2.0}),
        (PLAIN, {}),
    ):
        found = as_arrays(editor.transform(photos, changes, keep="nothing", **given))  # type: ignore[call-overload]
        assert_same_pictures(found, direct(model, pixels(), by_index, **expected))  # type: ignore[arg-type]
        pictures.append(found.tobytes())
    assert len(set(pictures)) == len(pictures)
    without = FaceEditor(model, NAMES)  # which has no companions to move
    assert_same_pictures(
        as_arrays(without.transform(photos, changes, keep="nothing")),  # type: ignore[arg-type]
        direct(model, pixels(), by_index, strength=2.0),  # type: ignore[arg-type]
    )


def test_amounts_are_their_own_strength(model: IterativeGAN) -> None:
    """What an amount is, is tested with ``edited_labels``."""
    photos, editor = list(pixels()), FaceEditor(model, NAMES, companions=COMPANIONS)
    by_index: dict[int, Edit] = {3: Amount(-2), 1: Amount(0.5), 0: 1.0}
    for keep in ("nothing", "photo"):
        found = editor.transform(
            photos, {"Male": "-2", "Eyeglasses": Amount(0.5), "Smiling": 1}, keep=keep, strength=1.2
        )  # type: ignore[call-overload]
        if keep == "nothing":
            expected = direct(model, pixels(), by_index, strength=1.2, companions=COMPANIONS)
        else:
            x = to_float(torch.from_numpy(pixels()))
            with torch.no_grad():
                expected = to_uint8(edited_photos(model, x, by_index, strength=1.2, companions=COMPANIONS)).numpy()
        assert_same_pictures(as_arrays(found), expected)


def test_new_faces_take_amounts_from_their_row_on(model: IterativeGAN, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(model, "generate", lambda z, c: seen.append(c) or torch.zeros(len(z), 3, 32, 32))
    editor = FaceEditor(model, NAMES)
    editor.generate(1, {"Bangs": "+2", "Male": "-0.5", "Smiling": "+0"})
    np.testing.assert_array_equal(seen[0], [[0.5, 0.5, 1.5, 0.25]])


def test_by_default_the_photo_is_kept(model: IterativeGAN) -> None:
    """The equation itself is tested with ``edited_photos``."""
    photos, changes = list(pixels()), {"Male": "flip", "Eyeglasses": 0.25}
    editor, x = FaceEditor(model, NAMES, companions=COMPANIONS), to_float(torch.from_numpy(pixels()))
    for given, strength in (({}, 2.0), ({"keep": "photo", "strength": 0.5}, 0.5)):
        with torch.no_grad():
            expected = edited_photos(model, x, {3: "flip", 1: 0.25}, strength=strength, companions=COMPANIONS)
        found = as_arrays(editor.transform(photos, changes, **given))  # type: ignore[call-overload]
        assert_same_pictures(found, to_uint8(expected).numpy())
    np.testing.assert_array_equal(as_arrays(editor.transform(photos, {})), pixels())


class OlderModel(IterativeGAN):
    """A user's model with a ``transform`` from before edits had a strength and companions."""

    def transform(self, images, changes):  # type: ignore[no-untyped-def, override]
        raise AssertionError("FaceEditor calls only encode and generate")


def test_a_model_with_a_transform_of_its_own(model: IterativeGAN) -> None:
    older = OlderModel(**model.arguments())
    older.load_state_dict(model.state_dict())
    ours, theirs = (FaceEditor(each, NAMES, companions=COMPANIONS) for each in (older, model))
    photos = list(pixels())
    for edit in (
        lambda editor: editor.rebuild(photos),
        lambda editor: editor.transform(photos, {"Male": "flip"}),
        lambda editor: editor.transform(photos, {"Male": 1}, **PLAIN),
        lambda editor: editor.generate(2, {"Male": 1}),
    ):
        np.testing.assert_array_equal(as_arrays(edit(ours)), as_arrays(edit(theirs)))


def test_what_goes_along_is_told(model: IterativeGAN) -> None:
    editor = FaceEditor(model, NAMES, companions=COMPANIONS)
    assert editor.companions_of(["Male"]) == {"Male": {"Bangs": -0.5, "Smiling": 0.25}}
    assert list(editor.companions_of(["Male"])["Male"]) == ["Bangs", "Smiling"]  # the largest first
    assert editor.companions_of({"Eyeglasses": 1}) == {"Eyeglasses": {}}
    assert editor.companions_of([]) == {}
    # Smiling goes along with Male only, and bangs are now set themselves.
    assert editor.companions_of(["Male", "Bangs"]) == {"Male": {"Smiling": 0.25}, "Bangs": {}}
    assert FaceEditor(model, NAMES).companions_of(["Male", "Bangs"]) == {"Male": {}, "Bangs": {}}
    with pytest.raises(InputError, match="did you mean Male"):
        editor.companions_of(["Mal"])
    with pytest.raises(InputError, match="given twice"):
        editor.companions_of(["Male", "Male"])


def test_a_flip_is_the_opposite_of_what_is_recognised_in_each_photo(editor: FaceEditor) -> None:
    photos = list(pixels())
    flipped = editor.transform(photos, {"Male": "flip"})
    asked = [0 if row["Male"] > 0.5 else 1 for row in editor.recognise(photos)]
    assert set(asked) == {0, 1}
    for photo, value, picture in zip(photos, asked, flipped, strict=True):
        assert_same_pictures(np.asarray(picture), np.asarray(editor.transform([photo], {"Male": value})[0]))


@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_results_do_not_depend_on_the_batch_size(model: IterativeGAN, editor: FaceEditor, batch_size: int) -> None:
    other = FaceEditor(model, NAMES, label_samples=SAMPLES, batch_size=batch_size)
    photos = list(pixels())
    rows = [[list(row.values()) for row in e.recognise(photos)] for e in (editor, other)]
    np.testing.assert_allclose(*rows, atol=1e-5)
    assert_same_pictures(as_arrays(other.rebuild(photos)), as_arrays(editor.rebuild(photos)))
    assert_same_pictures(as_arrays(other.generate(7)), as_arrays(editor.generate(7)))


def test_every_kind_of_photo_gives_the_same(editor: FaceEditor, tmp_path: Path) -> None:
    array = pixels()[0]
    path = tmp_path / "photo.png"
    Image.fromarray(array).save(path)
    expected = editor.recognise(array)
    assert isinstance(expected, dict)
    for photo in (path, str(path), Image.fromarray(array), Image.fromarray(array).convert("RGBA")):
        assert editor.recognise(photo) == expected
    mixed = editor.recognise([path, str(path), Image.fromarray(array), array])
    np.testing.assert_allclose([list(row.values()) for row in mixed], [list(expected.values())] * 4, atol=1e-5)


def test_one_in_one_out_several_in_list_out(editor: FaceEditor) -> None:
    photo = Image.fromarray(pixels()[0])
    assert isinstance(editor.rebuild(photo), Image.Image)
    assert isinstance(editor.transform(pixels()[0], {"Bangs": 1}), Image.Image)
    assert isinstance(editor.rebuild(pixels()[0, :, :, 0]), Image.Image)
    for several in ([photo], (photo,), pixels(1)):
        pictures = editor.rebuild(several)
        assert isinstance(pictures, list)
        assert len(pictures) == 1
    assert editor.recognise([]) == []
    assert editor.rebuild(pixels()[:0]) == []
    assert len(editor.rebuild(pixels())) == 7


def test_a_large_grey_photo_is_cropped_and_resized(editor: FaceEditor) -> None:
    editor.align = "off"
    assert editor.rebuild(Image.new("L", (123, 77), 90)).size == (32, 32)


def test_generate_sets_what_is_asked_and_samples_the_rest(editor: FaceEditor, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    inner = editor.model.generate

    def spy(z: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        seen.append((z, c))
        return inner(z, c)

    monkeypatch.setattr(editor.model, "generate", spy)
    faces = editor.generate(150, {"Smiling": 1, "Bangs": 0.5}, strength=1, seed=3)
    assert [len(z) for z, _ in seen] == [64, 64, 22]
    z, c = (torch.cat(parts).numpy() for parts in zip(*seen, strict=True))
    assert (c[:, 0] == 1).all()
    assert (c[:, 2] == 0.5).all()
    pairs, counts = np.unique(c[:, [1, 3]], axis=0, return_counts=True)
    assert {tuple(pair) for pair in pairs} == {(0, 1), (1, 0)}  # as in the samples, where none has both or neither
    assert counts.min() > 25  # expected 50 and 100
    assert -1 <= z.min() < -0.9
    assert 0.9 < z.max() <= 1
    with torch.no_grad():
        expected = to_uint8(inner(torch.from_numpy(z), torch.from_numpy(c))).numpy()
    assert_same_pictures(as_arrays(faces), expected)


def test_generate_edits_the_rows_as_transform_edits_photos(
    model: IterativeGAN, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(model, "generate", lambda z, c: seen.append(c) or torch.zeros(len(z), 3, 32, 32))
    editor = FaceEditor(model, NAMES, label_samples=SAMPLES, companions=COMPANIONS)
    for how in ({}, {"companions": False}, PLAIN, {"strength": 1.5}):
        editor.generate(40, {"Male": 1}, seed=3, **how)  # type: ignore[arg-type]
    rows = SAMPLES[np.random.default_rng(3).spawn(2)[1].integers(3, size=40)]
    # The first sample is Male already, so nothing moves. Smiling stays at most 1, bangs at least 0.
    for found, edited in zip(
        seen,
        (
            [[0, 0, 0, 1.5], [1, 1, 0, 1.5], [0.25, 1, 0.5, 1.5]],
            [[0, 0, 0, 1.5], [1, 1, 0, 1.5], [0, 1, 1, 1.5]],
            [[0, 0, 0, 1], [1, 1, 0, 1], [0, 1, 1, 1]],
            [[0, 0, 0, 1.25], [1, 1, 0, 1.25], [0.25, 1, 0.5, 1.25]],
        ),
        strict=True,
    ):
        by_row = {tuple(row): values for row, values in zip(SAMPLES.tolist(), edited, strict=True)}
        assert found.tolist() == [by_row[tuple(row)] for row in rows.tolist()]
    seen.clear()
    FaceEditor(model, NAMES, companions=COMPANIONS).generate(2, {"Male": 1})
    assert seen[0].tolist() == [[0.625, 0.5, 0.25, 1.5]] * 2  # undecided ones move too


def test_generate_is_decided_by_the_seed(editor: FaceEditor) -> None:
    faces = as_arrays(editor.generate(4, {"Male": 1}, seed=5))
    np.testing.assert_array_equal(as_arrays(editor.generate(4, {"Male": 1}, seed=5)), faces)
    assert_same_pictures(as_arrays(editor.generate(2, {"Male": 1}, seed=5)), faces[:2])
    assert (as_arrays(editor.generate(4, {"Male": 1}, seed=6)) != faces).any()
    assert (as_arrays(editor.generate(4, {"Male": 0}, seed=5)) != faces).any()


def test_faces_in_batches_are_the_same_and_drawn_when_they_are_asked_for(
    editor: FaceEditor, model: IterativeGAN, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = FaceEditor(model, NAMES, label_samples=SAMPLES, batch_size=3)
    batches = list(small.generate_batches(8, {"Male": 1}, seed=5))
    assert [len(batch) for batch in batches] == [3, 3, 2]
    whole = editor.generate(8, {"Male": 1}, seed=5)
    assert_same_pictures(as_arrays([face for batch in batches for face in batch]), as_arrays(whole))
    calls: list[int] = []
    inner = model.generate
    monkeypatch.setattr(model, "generate", lambda z, c: calls.append(len(z)) or inner(z, c))
    many = small.generate_batches(1_000_000)  # which would not fit into memory
    next(many)
    assert calls == [3]


def test_what_a_face_is_drawn_from_does_not_depend_on_the_batches(
    model: IterativeGAN, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against NumPy's generators, asked for everything at once."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    monkeypatch.setattr(model, "generate", lambda z, c: seen.append((z, c)) or torch.zeros(len(z), 3, 32, 32))
    noise_rng, label_rng = np.random.default_rng(3).spawn(2)
    expected_z = noise_rng.uniform(-1, 1, (50, 6)).astype(np.float32)
    expected_c = SAMPLES[label_rng.integers(3, size=50)]
    for batch_size in (1, 7, 50):
        seen.clear()
        FaceEditor(model, NAMES, label_samples=SAMPLES, batch_size=batch_size).generate(50, seed=3)
        z, c = (torch.cat(parts).numpy() for parts in zip(*seen, strict=True))
        np.testing.assert_array_equal(z, expected_z)
        np.testing.assert_array_equal(c, expected_c)


@pytest.mark.parametrize("samples", [None, SAMPLES[:0]])
def test_without_samples_open_attributes_are_undecided(
    model: IterativeGAN, monkeypatch: pytest.MonkeyPatch, samples: np.ndarray | None
) -> None:
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(model, "generate", lambda z, c: seen.append(c) or torch.zeros(len(z), 3, 32, 32))
    FaceEditor(model, NAMES, label_samples=samples).generate(2, {"Bangs": 1}, strength=1)
    np.testing.assert_array_equal(seen[0], [[0.5, 0.5, 1, 0.5]] * 2)


def test_bad_requests_are_refused_in_one_line(editor: FaceEditor, tmp_path: Path) -> None:
    photo = pixels()[0]
    for bad, message in (
        ({"Smilling": 1}, "did you mean Smiling"),
        ({"Smiling": 2}, "expected a number from 0 to 1"),
        ({"Smiling": -0.1}, "expected a number from 0 to 1"),
        ({"Smiling": float("nan")}, "expected a number from 0 to 1"),
        ({"Smiling": "on"}, "expected a number from 0 to 1"),
    ):
        with pytest.raises(InputError, match=message):
            editor.transform(photo, bad)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=message):
            editor.generate(1, bad)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="Smiling=flip: a new face has nothing to flip"):
        editor.generate(1, {"Smiling": "flip"})  # type: ignore[dict-item]
    for n in (0, -3, 10**12):
        with pytest.raises(InputError, match=f"n: found {n:,}, expected from 1 to 1,000,000 faces"):
            editor.generate(n)
        with pytest.raises(InputError, match=f"n: found {n:,}"):
            editor.generate_batches(n)  # before the first one is asked for
    for seed in (-1, 2**63, 10**30):
        with pytest.raises(InputError, match=f"seed: found {seed}, expected from 0 to 2⁶³ − 1"):
            editor.generate(1, seed=seed)
    with pytest.raises(InputError, match="keep: found 'all', expected 'photo' or 'nothing'"):
        editor.transform(photo, {}, keep="all")  # type: ignore[call-overload]
    for how, message in (
        ({"strength": -0.5}, "strength: found -0.5, expected a number from 0 to 10"),
        ({"strength": 10.1}, "strength: found 10.1"),
        ({"strength": float("nan")}, "strength: found nan"),
        ({"strength": float("inf")}, "strength: found inf"),
        ({"strength": "2"}, "strength: found '2'"),
        ({"companions": 0.5}, "companions: found 0.5, expected True or False"),
        ({"companions": COMPANIONS}, "companions: found .*, expected True or False"),
    ):
        with pytest.raises(InputError, match=message):
            editor.transform(photo, {}, **how)  # type: ignore[call-overload]
        with pytest.raises(InputError, match=message):
            editor.generate_batches(1, **how)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="photo: is empty; expected a path"):
        editor.recognise("")
    with pytest.raises(InputError, match="photo 2 of 2: is 1×1 pixels"):
        editor.recognise([photo, Image.new("RGB", (1, 1))])
    with pytest.raises(InputError, match=r"gone.png: no such file"):
        editor.rebuild(tmp_path / "gone.png")
    with pytest.raises(InputError, match="photo: found a Tensor, expected a path"):
        editor.rebuild(torch.zeros(3, 32, 32))  # type: ignore[call-overload]


def test_label_samples_may_be_lists(model: IterativeGAN, editor: FaceEditor) -> None:
    listed = FaceEditor(model, NAMES, label_samples=SAMPLES.tolist())
    np.testing.assert_array_equal(as_arrays(listed.generate(4)), as_arrays(editor.generate(4)))


def test_what_does_not_fit_the_model_is_refused(model: IterativeGAN) -> None:
    with pytest.raises(InputError, match="found 3 names for a model of 4"):
        FaceEditor(model, NAMES[:3])
    with pytest.raises(InputError, match=r"label_samples: found the shape \(3, 3\)"):
        FaceEditor(model, NAMES, label_samples=SAMPLES[:, :3])
    with pytest.raises(InputError, match=r"label_samples: found \[\[0, 1\], \[1\]\], expected \(M, 4\)"):
        FaceEditor(model, NAMES, label_samples=[[0, 1], [1]])
    for wrong, found in ((SAMPLES * 2.0 - 1, "-1"), (SAMPLES.astype(np.int8) * 2, "2"), (SAMPLES + np.nan, "nan")):
        with pytest.raises(InputError, match=f"label_samples: found {found}, expected 0 for absent, 1 for present"):
            FaceEditor(model, NAMES, label_samples=wrong)
    with pytest.raises(InputError, match="label_samples: found values of type str_, expected numbers from 0 to 1"):
        FaceEditor(model, NAMES, label_samples=SAMPLES.astype(str))
    FaceEditor(model, NAMES, label_samples=SAMPLES.astype(bool))
    FaceEditor(model, NAMES, label_samples=SAMPLES * 0.7)
    with pytest.raises(InputError, match="companions: found those of 3 attributes for a model of 4"):
        FaceEditor(model, NAMES, companions=Companions.of_labels(torch.from_numpy(SAMPLES[:, :3])))
    with pytest.raises(InputError, match="batch_size: found 0"):
        FaceEditor(model, NAMES, batch_size=0)


def checkpoint(run: Path, model: IterativeGAN, **described: object) -> Path:
    state = {"model": {"arguments": model.arguments(), "attributes": list(NAMES), **described}, "config": {}}
    ema = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}
    return save_checkpoint(run, 1, {"model": model.state_dict(), "ema": ema}, state)


def test_load_from_a_run_and_from_a_checkpoint(model: IterativeGAN, editor: FaceEditor, tmp_path: Path) -> None:
    packed = ["".join(map(str, row)) for row in SAMPLES.tolist()]
    folder = checkpoint(tmp_path / "run", model, label_samples=packed)
    for path in (tmp_path / "run", str(folder)):
        loaded = FaceEditor.load(path, weights="model")
        assert loaded.attributes == NAMES
        assert not loaded.model.training
        assert loaded.recognise(pixels()[0]) == editor.recognise(pixels()[0])
        np.testing.assert_array_equal(as_arrays(loaded.generate(3, seed=1)), as_arrays(editor.generate(3, seed=1)))
    averaged = FaceEditor.load(folder).recognise(pixels()[0])
    assert set(averaged.values()) == {0.5}  # these averaged weights are all 0


def test_paths_below_a_home(
    model: IterativeGAN, editor: FaceEditor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint(tmp_path / "run", model)
    Image.fromarray(pixels()[0]).save(tmp_path / "a.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    loaded = FaceEditor.load("~/run", weights="model", device="auto")
    assert loaded.recognise("~/a.png") == loaded.recognise([Path("~/a.png")])[0] == editor.recognise(pixels()[0])
    with pytest.raises(InputError, match="path: is empty"):
        FaceEditor.load("")


def test_the_gpu_is_taken_where_there_is_one(
    model: IterativeGAN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the command line takes it; the model is not really sent there."""
    asked: list[object] = []
    monkeypatch.setattr("igan_fast.editor.load_model", lambda path, *, device, weights: asked.append(device) or exit_())

    class Enough(Exception):
        pass

    def exit_() -> None:
        raise Enough

    for there, expected in ((False, "cpu"), (True, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        for keywords in ({}, {"device": "auto"}):
            with pytest.raises(Enough):
                FaceEditor.load(tmp_path, **keywords)  # type: ignore[arg-type]
            assert asked.pop() == torch.device(expected)


def test_load_with_companions(model: IterativeGAN, tmp_path: Path) -> None:
    packed = ["".join(map(str, row)) for row in SAMPLES.tolist()]
    many = torch.from_numpy(np.random.default_rng(0).integers(0, 2, (200, 4)))
    many[:, 3] = many[:, 0]
    state = {"model": {"arguments": model.arguments(), "attributes": list(NAMES), "label_samples": packed}}
    tensors = {"model": model.state_dict(), "labels": counted_labels(many)}
    for folder, labels in (
        (save_checkpoint(tmp_path / "new", 1, tensors, state), many),
        (checkpoint(tmp_path / "old", model, label_samples=packed), torch.from_numpy(SAMPLES)),
    ):
        found = FaceEditor.load(folder).companions
        assert found is not None
        assert torch.equal(found.covariance, Companions.of_labels(labels).covariance)
    assert FaceEditor.load(tmp_path / "new").companions_of(["Smiling"]) == {"Smiling": {"Male": pytest.approx(1)}}
    assert FaceEditor.load(checkpoint(tmp_path / "older", model)).companions is None


def test_load_without_samples_and_with_damaged_ones(model: IterativeGAN, tmp_path: Path) -> None:
    assert len(FaceEditor.load(checkpoint(tmp_path / "old", model)).generate(2)) == 2
    for number, packed in enumerate((["011"], ["0112"], [3], "0110")):
        folder = checkpoint(tmp_path / str(number), model, label_samples=packed)
        with pytest.raises(InputError, match=r"damaged: model\.label_samples"):
            FaceEditor.load(folder)
    with pytest.raises(InputError, match="gone"):
        FaceEditor.load(tmp_path / "gone")


def test_results_that_are_no_numbers_are_refused(editor: FaceEditor) -> None:
    with torch.no_grad():
        for parameter in editor.model.parameters():
            parameter.fill_(1e30)
    photo = pixels(1)[0]
    for compute in (lambda: editor.recognise(photo), lambda: editor.rebuild(photo), lambda: editor.generate(1)):
        with pytest.raises(InputError, match="its results are NaN or infinite; its weights may be too large"):
            compute()


def test_companions_of_another_type_are_refused() -> None:
    model = IterativeGAN(image_size=32, attributes=2, latent=4, width=2)
    for wrong in (torch.zeros(100, 2), True):
        with pytest.raises(InputError, match=r"companions: found a (Tensor|bool), expected Companions or None"):
            FaceEditor(model, ["A", "B"], companions=wrong)
