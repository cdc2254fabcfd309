"""The page's second tab: faces are drawn from noise."""

from __future__ import annotations

import random
from typing import Any

import gradio as gr
from PIL import Image

from igan_fast.app.web.edit_tab import EVENTS
from igan_fast.app.web.fields import number_slider, shown_errors
from igan_fast.app.web.photo import MODEL
from igan_fast.app.web.sliders import Sliders
from igan_fast.editor import FaceEditor
from igan_fast.reference.editing import Amount

__all__ = ["MOST_DRAWN", "build_draw_tab"]

#: At most so many faces are drawn at once.
MOST_DRAWN = 16
_LARGEST_SEED = 2**31 - 1


def build_draw_tab(editor: FaceEditor, load: Any) -> None:
    """Make the tab's contents, in the block that is being built.

    Args:
        editor: draws the faces.
        load: the event after which the first faces are drawn.
    """
    with gr.Row():
        with gr.Column(scale=5, min_width=320):
            pictures = gr.Gallery(
                label="Faces", columns=4, object_fit="contain", format="png", buttons=["download", "fullscreen"],
                elem_id="drawn",
            )  # fmt: skip
            gr.Markdown(
                "Each face starts as a random person of the training data. Sliders move its attributes: +1 is present, "
                "−1 is absent. The same seed draws the same people."
            )
            with gr.Row():
                count = number_slider(1, MOST_DRAWN, value=8, step=1, label="How many", min_width=160)
                seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=_LARGEST_SEED, min_width=120)
                new = gr.Button("Other people", variant="primary", elem_id="others", min_width=120)
            companions = gr.Checkbox(
                True, label="Companions", info="Attributes that correlate with a changed one move along."
            )
        with gr.Column(scale=3, min_width=280):
            sliders = Sliders.build(editor.attributes)
            reset = gr.Button("Reset", size="sm")

    @shown_errors
    def draw(count: float, seed: float | None, along: bool, *values: float) -> list[Image.Image]:
        changes = {name: Amount(value) for name, value in sliders.amounts(values).items() if value}
        with MODEL:
            return editor.generate(round(count), changes, companions=along, seed=int(seed or 0))

    inputs: list[Any] = [count, seed, companions, *sliders.each]
    model: dict[str, Any] = {
        **EVENTS,
        "api_visibility": "private",
        "show_progress": "hidden",
        "trigger_mode": "always_last",
    }
    gr.on([load, *(control.input for control in inputs)], draw, inputs, pictures, **model)
    new.click(lambda: random.randint(0, _LARGEST_SEED), None, seed, api_visibility="private").then(
        draw, inputs, pictures, **model
    )
    reset.click(lambda: sliders.values({}), None, sliders.each, api_visibility="private").then(
        draw, inputs, pictures, **model
    )
