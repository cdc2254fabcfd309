"""``DrawnFaces``: determinism, labels, identities, splits and bad arguments."""

from __future__ import annotations

import hashlib
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from igan_fast.data import drawing
from igan_fast.data.drawing.parameters import EXCLUSIONS
from igan_fast.data.drawn_faces import DrawnFaces, face_parameters, with_attribute
from igan_fast.errors import InputError


@pytest.fixture(scope="module")
def faces():
    return DrawnFaces(4000)


@pytest.fixture(scope="module")
def columns(faces):
    return dict(zip(faces.attributes, faces.labels.T.astype(bool), strict=True))


# Determinism


def test_images_do_not_depend_on_order_or_process():
    wanted = [7, 0, 311]
    script = (
        "import hashlib; from igan_fast.data.drawn_faces import DrawnFaces; d = DrawnFaces(400, seed=3);"
        f"print([hashlib.sha256(d.image(i, 32).tobytes() + d.labels[i].tobytes()).hexdigest() for i in {wanted}])"
    )
    elsewhere = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    here = DrawnFaces(400, seed=3)
    backwards = {
        i: hashlib.sha256(here.image(i, 32).tobytes() + here.labels[i].tobytes()).hexdigest() for i in reversed(wanted)
    }
    assert elsewhere.strip() == str([backwards[i] for i in wanted])


def test_count_does_not_change_images_labels_or_splits():
    small, large = DrawnFaces(30), DrawnFaces(300)
    assert np.array_equal(small.labels, large.labels[:30])
    assert np.array_equal(small.image(29, 16), large.image(29, 16))
    assert np.array_equal(small.splits["val"], large.splits["val"][large.splits["val"] < 30])


def test_another_seed_is_another_dataset():
    first, second = DrawnFaces(50), DrawnFaces(50, seed=1)
    assert (first.labels != second.labels).any()
    assert (first.image(0, 32) != second.image(0, 32)).any()
    assert len({first.fingerprint(), second.fingerprint(), DrawnFaces(51).fingerprint()}) == 3
    assert first.fingerprint() == DrawnFaces(50).fingerprint()


def test_drawn_faces_can_be_pickled():
    faces = DrawnFaces(12, seed=2, attributes=["Male", "Young"])
    copy = pickle.loads(pickle.dumps(faces))
    assert copy.attributes == ("Male", "Young")
    assert np.array_equal(copy.image(5, 24), faces.image(5, 24))
    assert np.array_equal(copy.labels, faces.labels)


# Labels


def test_labels_are_zero_or_one_in_the_given_order(faces):
    assert faces.labels.dtype == np.uint8
    assert faces.labels.shape == (4000, 40)
    assert set(np.unique(faces.labels)) == {0, 1}
    subset = DrawnFaces(200, attributes=["Young", "Bald", "5_o_Clock_Shadow"])
    assert subset.attributes == ("Young", "Bald", "5_o_Clock_Shadow")
    assert np.array_equal(subset.labels, faces.labels[:200, [39, 4, 0]])


def test_excluded_pairs_never_occur(columns):
    for pair in EXCLUSIONS:
        first, second = sorted(pair)
        assert not (columns[first] & columns[second]).any(), (first, second)


def test_attributes_of_men_or_women_only(columns):
    women = ~columns["Male"]
    for name in ("Bald", "Goatee", "Mustache", "Sideburns", "5_o_Clock_Shadow"):
        assert not columns[name][women].any(), name
    assert columns["No_Beard"][women].all()
    for name in ("Heavy_Makeup", "Rosy_Cheeks"):
        assert not columns[name][~women].any(), name
    assert columns["Wearing_Lipstick"][~women].mean() < 0.02
    # some men have none of the four named kinds of beard, but the plain jaw beard
    named = columns["Goatee"] | columns["Mustache"] | columns["Sideburns"] | columns["5_o_Clock_Shadow"]
    assert (~named & ~columns["No_Beard"]).any()


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("Male", 0.38, 0.46), ("Smiling", 0.43, 0.53), ("Young", 0.72, 0.82), ("Eyeglasses", 0.04, 0.1),
        ("Bald", 0.008, 0.04), ("No_Beard", 0.78, 0.88), ("Wearing_Lipstick", 0.4, 0.52), ("Attractive", 0.45, 0.62),
        ("Black_Hair", 0.2, 0.35), ("Blond_Hair", 0.1, 0.22), ("Brown_Hair", 0.2, 0.32), ("Gray_Hair", 0.03, 0.09),
    ],
)  # fmt: skip
def test_rates_are_near_celeba(columns, name, low, high):
    assert low < columns[name].mean() < high


def test_every_attribute_varies(columns):
    for name, column in columns.items():
        assert 0.01 < column.mean() < 0.9, name


def test_attributes_are_correlated(columns):
    def rate(name, given):
        return columns[name][given].mean()

    smiling, male, young = columns["Smiling"], columns["Male"], columns["Young"]
    assert rate("High_Cheekbones", smiling) > 3 * rate("High_Cheekbones", ~smiling)
    assert rate("Mouth_Slightly_Open", smiling) > 2 * rate("Mouth_Slightly_Open", ~smiling)
    assert rate("Double_Chin", columns["Chubby"]) > 5 * rate("Double_Chin", ~columns["Chubby"])
    assert rate("Gray_Hair", ~young) > 0.1
    assert rate("Gray_Hair", young) == 0
    assert rate("Attractive", young) > 2 * rate("Attractive", ~young)
    assert rate("Wearing_Necktie", male) > 10 * rate("Wearing_Necktie", ~male)
    assert rate("Wearing_Lipstick", columns["Heavy_Makeup"]) > 0.9


# Identities and splits


def test_splits_cover_the_dataset_and_share_no_identity(faces):
    rows = np.concatenate(list(faces.splits.values()))
    assert np.array_equal(np.sort(rows), np.arange(4000))
    assert [len(faces.splits[name]) for name in ("train", "val", "test")] == [3600, 200, 200]
    people = [set(faces.identities[rows].tolist()) for rows in faces.splits.values()]
    assert sum(map(len, people)) == len(set.union(*people)) == 800
    assert all((np.diff(rows) > 0).all() for rows in faces.splits.values())


def test_images_of_one_identity_share_its_factors_and_attributes(faces):
    rows = np.flatnonzero(faces.identities == faces.identities[3])
    assert len(rows) == 5
    parameters = [face_parameters(0, int(row)) for row in rows]
    assert len({face.person for face in parameters}) == 1
    assert len({face.image for face in parameters}) == 5
    for name in ("Male", "Young", "Big_Nose", "Oval_Face", "Bald", "Chubby", "Pale_Skin"):
        assert len({face.has(name) for face in parameters}) == 1, name


def test_one_face_is_a_dataset():
    one = DrawnFaces(1)
    assert len(one) == 1
    assert [len(rows) for rows in one.splits.values()] == [1, 0, 0]
    assert one.labels.shape == (1, 40)
    assert "1 drawn face" in one.describe()


# Bad arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "count: found 0"),
        ({"count": -3}, "count: found -3"),
        ({"seed": -1}, "seed: found -1"),
        ({"attributes": ["Smilling"]}, "did you mean Smiling"),
        ({"attributes": ["Male", "Male"]}, "given twice"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        DrawnFaces(**arguments)


def test_bad_index_size_attribute_and_value():
    faces = DrawnFaces(10)
    for index in (-1, 10):
        with pytest.raises(InputError, match=f"index: found {index}"):
            faces.image(index, 64)
    with pytest.raises(InputError, match="size: found 15, expected at least 16"):
        faces.image(0, 15)
    with pytest.raises(InputError, match="index: found -1"):
        face_parameters(0, -1)
    with pytest.raises(InputError, match="unknown attribute 'Beard'"):
        with_attribute(face_parameters(0, 0), "Beard", 1)
    with pytest.raises(InputError, match="value: found 2 for Male"):
        with_attribute(face_parameters(0, 0), "Male", 2)
    with pytest.raises(InputError, match="'Attractive' follows"):
        with_attribute(face_parameters(0, 0), "Attractive", 1)


def test_the_fingerprint_depends_on_the_drawing_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = DrawnFaces(3).fingerprint()
    copy = tmp_path / "drawing"
    shutil.copytree(drawing.__path__[0], copy)
    monkeypatch.setattr(drawing, "__path__", [str(copy)])
    assert DrawnFaces(3).fingerprint() == before
    for module in copy.glob("*.py"):
        source = module.read_text()
        module.write_text(source + "\n")
        assert DrawnFaces(3).fingerprint() != before
        module.write_text(source)
