"""The page in a real browser: Chromium, without a screen."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from known_faces import KnownFaces
from PIL import Image

from igan_fast.app.web.photo import OpenPhoto
from igan_fast.editor import FaceEditor
from igan_fast.faces import Similarity

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: no browser test")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
#: Without these, Chromium looks for updates and for Google's servers at every start.
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: no browser test"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture(params=[1400, 390], ids=["desktop", "phone"])
def page(browser: Any, address: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The page, open; afterwards it has asked nobody but the server, and no script has failed."""
    page = browser.new_page(viewport={"width": request.param, "height": 900})
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda asked: wrong.append(asked.url) if outside(asked.url, address) else None)
    page.goto(address)
    page.wait_for_selector("#photo input[type=file]", state="attached")
    yield page
    page.close()
    assert wrong == []


def outside(url: str, address: str) -> bool:
    return not url.startswith((address, "data:", "blob:"))


def open_file(page: Any, path: Path) -> None:
    page.set_input_files("#photo input[type=file]", path)
    page.wait_for_selector("#pictures img")
    page.wait_for_function("document.querySelector('#status').innerText.includes('Move a slider')")


def move(page: Any, name: str, value: float) -> None:
    """Type a value beside a slider, and wait until the picture has changed."""
    with changed_picture(page):
        field = page.locator("#sliders").get_by_label(f"number input for {name}").first
        field.fill(str(value))
        field.press("Enter")


@contextlib.contextmanager
def changed_picture(page: Any) -> Iterator[None]:
    """Wait at the end of the block until another picture is shown."""
    pictures = "Array.from(document.querySelectorAll('#pictures img')).map(image => image.src).join()"
    before = page.evaluate(pictures)
    yield
    page.wait_for_function(f"before => {pictures} !== before", arg=before)


def downloaded(page: Any, folder: Path) -> np.ndarray:
    with page.expect_download() as waiting:
        page.click("#save")
    path = folder / waiting.value.suggested_filename
    waiting.value.save_as(path)
    assert path.name == "two people-edited.png"
    return np.asarray(Image.open(path)).astype(int)


def test_a_photo_in_a_slider_moved_a_changed_photo_out(
    page: Any, editor: FaceEditor, photo: Path, tmp_path: Path
) -> None:
    open_file(page, photo)
    np.testing.assert_array_equal(downloaded(page, tmp_path), Image.open(photo))
    move(page, "Male", 2)
    assert "Moves along: Bangs up." in page.inner_text("#status")
    # The big face is chosen, which is the second from the left.
    one = FaceEditor(editor.model, editor.attributes, companions=editor.companions, face=2)
    expected = np.asarray(one.transform(photo, {"Male": "+2"}))
    assert np.abs(downloaded(page, tmp_path) - expected).max() <= 1
    move(page, "Smiling", -1)
    expected = np.asarray(one.transform(photo, {"Male": "+2", "Smiling": "-1"}))
    assert np.abs(downloaded(page, tmp_path) - expected).max() <= 1


def test_undo_and_another_face(page: Any, editor: FaceEditor, photo: Path, tmp_path: Path) -> None:
    open_file(page, photo)
    move(page, "Male", 2)
    page.locator("#faces button.thumbnail-item, #faces .thumbnail-lg").first.click()
    number = page.locator("#sliders").get_by_label("number input for Male").first
    playwright.expect(number).to_have_value("0")  # the sliders are those of the other face
    move(page, "Smiling", 1)
    one = FaceEditor(editor.model, editor.attributes, companions=editor.companions, face=1)
    both = one.transform(photo, {"Smiling": "+1"})
    found = downloaded(page, tmp_path)
    assert np.abs(found[30:119, 20:109] - np.asarray(both)[30:119, 20:109]).max() <= 1
    for _ in range(2):
        with changed_picture(page):
            page.click("#undo")
    np.testing.assert_array_equal(downloaded(page, tmp_path), Image.open(photo))


def test_an_emptied_field_is_zero(page: Any, photo: Path, tmp_path: Path) -> None:
    open_file(page, photo)
    move(page, "Male", 2)
    with changed_picture(page):
        field = page.locator("#sliders").get_by_label("number input for Male").first
        field.fill("")
        field.press("Enter")
    np.testing.assert_array_equal(downloaded(page, tmp_path), Image.open(photo))


def test_an_edit_on_its_way_does_not_reach_another_face(
    page: Any, editor: FaceEditor, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slider is moved twice, then another face is chosen, while the first edit is still being drawn."""
    preview = OpenPhoto.preview

    def slow(*arguments: Any) -> Image.Image:
        time.sleep(0.4)
        return preview(*arguments)

    open_file(page, photo)
    monkeypatch.setattr(OpenPhoto, "preview", slow)
    field = page.locator("#sliders").get_by_label("number input for Male").first
    for value in ("1", "2"):
        field.fill(value)
        field.press("Enter")
        page.wait_for_timeout(100)
    page.locator("#faces button.thumbnail-item, #faces .thumbnail-lg").first.click()
    playwright.expect(field).to_have_value("0")
    page.wait_for_timeout(1500)
    found = downloaded(page, tmp_path)
    np.testing.assert_array_equal(found[30:119, 20:109], np.asarray(Image.open(photo))[30:119, 20:109])
    playwright.expect(field).to_have_value("0")


def test_a_photo_without_a_face_closes_the_one_before(page: Any, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_file(page, photo)
    monkeypatch.setattr("igan_fast.faces.search.default_detector", KnownFaces)
    page.locator("#find-faces input").uncheck()
    page.wait_for_function("document.querySelector('#status').innerText.includes('Move a slider')")
    page.locator("#find-faces input").check()
    page.wait_for_function("document.querySelector('#status').innerText.includes('No face was found')")
    assert page.locator("#pictures img").count() == 0


def test_a_file_that_is_no_photo_is_named(page: Any, tmp_path: Path) -> None:
    document = tmp_path / "letter.png"
    document.write_bytes(b"%PDF-1.7\n" + bytes(500))
    page.set_input_files("#photo input[type=file]", document)
    page.wait_for_function("document.querySelector('#status').innerText.startsWith('letter.png: is ')")
    kept = Path(os.environ["IGAN_FAST_WEB_FOLDER"])
    assert list(kept.glob("photos-*/*/letter.png")) == []


def test_the_search_shows_what_it_finds(page: Any) -> None:
    page.get_by_label("Search among the attributes").first.press_sequentially("hat")
    sliders = page.locator("#sliders")
    playwright.expect(sliders.get_by_label("number input for Wearing Hat")).to_be_visible()
    playwright.expect(sliders.get_by_label("number input for Smiling")).to_be_hidden()


def test_faces_are_drawn(page: Any) -> None:
    page.get_by_role("tab", name="Draw faces").click()
    page.wait_for_selector("#drawn img")
    assert page.locator("#drawn img").count() >= 8
    first = page.locator("#drawn img").first.get_attribute("src")
    page.click("#others")
    page.wait_for_function("src => document.querySelector('#drawn img').getAttribute('src') !== src", arg=first)


def test_nothing_is_wider_than_a_phone(page: Any, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fits = "document.documentElement.scrollWidth <= window.innerWidth"
    many = KnownFaces(*(Similarity(0.25, 45 * k + 60j) for k in range(6)))
    monkeypatch.setattr("igan_fast.faces.search.default_detector", lambda: many)
    open_file(page, photo)
    playwright.expect(page.locator("#faces img")).to_have_count(6)
    assert page.evaluate(fits)
    page.get_by_role("tab", name="Draw faces").click()
    page.wait_for_selector("#drawn img")
    assert page.evaluate(fits)
