"""A small model whose edits show, photos in which it is known where the faces are, and a page that serves both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from known_faces import KnownFaces
from PIL import Image
from vivid_models import vivid

from igan_fast.editor import FaceEditor
from igan_fast.faces import Similarity
from igan_fast.reference import Companions, IterativeGAN

NAMES = ("Smiling", "Male", "Wearing_Hat", "Bangs")
#: Bangs move by 1/2 when Male moves by 1.
COMPANIONS = Companions(
    torch.tensor([[0.25, 0, 0, 0], [0, 0.25, 0, 0.125], [0, 0, 0.25, 0], [0, 0.125, 0, 0.25]], dtype=torch.float64)
)
LEFT, BIG = Similarity(0.5, 20 + 30j), Similarity(0.9 + 0.1j, 140 + 40j)


@pytest.fixture(scope="package")
def model() -> IterativeGAN:
    torch.manual_seed(0)
    model = vivid(IterativeGAN(image_size=32, attributes=len(NAMES), latent=6, width=4))
    return model.eval()


@pytest.fixture(scope="package")
def editor(model: IterativeGAN) -> FaceEditor:
    return FaceEditor(model, NAMES, companions=COMPANIONS)


@pytest.fixture(scope="package")
def two_faces() -> Iterator[None]:
    """Whatever is searched for faces shows a small one at the left and a big one."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("faces.search", "app.web.server"):
            patch.setattr(f"igan_fast.{module}.default_detector", lambda: KnownFaces(BIG, LEFT))
        yield


@pytest.fixture(scope="package")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """320×240 pixels of coloured blocks."""
    small = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("photos") / "two people.png"
    Image.fromarray(small.repeat(20, axis=0).repeat(20, axis=1)).save(path)
    return path


@pytest.fixture(scope="package")
def address(editor: FaceEditor, two_faces: None) -> Iterator[str]:
    """Where the page is served."""
    pytest.importorskip("gradio")
    from igan_fast.app.web.server import serving

    with serving(editor) as address:
        yield address
