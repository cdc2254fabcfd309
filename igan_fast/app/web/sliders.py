"""The sliders of all attributes, with the search among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from igan_fast.app.web.fields import number_slider
from igan_fast.app.web.groups import grouped, matching, shown_name

__all__ = ["MOST", "Sliders"]

#: Sliders go from −2 to 2.
MOST = 2

_SEARCH = "Search among the attributes"


@dataclass(frozen=True)
class Sliders:
    """The sliders on the page, in the order of the model's attributes."""

    attributes: tuple[str, ...]
    each: list[gr.Slider]

    @classmethod
    def build(cls, attributes: Sequence[str]) -> Sliders:
        """Make the sliders and the search in the block that is being built."""
        search = gr.Textbox(label=_SEARCH, placeholder=_SEARCH, show_label=False, container=False, max_lines=1)
        labels = {name: shown_name(name) for name in attributes}
        if len(set(labels.values())) < len(labels):
            labels = {name: name for name in attributes}
        by_name: dict[str, gr.Slider] = {}
        groups: list[tuple[gr.Accordion, list[str]]] = []
        for number, (title, names) in enumerate(grouped(attributes).items()):
            with gr.Accordion(title, open=number == 0) as group:
                for name in names:
                    by_name[name] = number_slider(-MOST, MOST, value=0, step=0.1, label=labels[name])
            groups.append((group, names))

        def find(text: str) -> list[dict[str, Any]]:
            found = matching(attributes, text)
            shown = [
                gr.update(visible=any(name in found for name in names), open=bool(text.strip()) or number == 0)
                for number, (_, names) in enumerate(groups)
            ]
            return [*shown, *(gr.update(visible=name in found) for name in attributes)]

        each = [by_name[name] for name in attributes]
        search.input(
            find,
            search,
            [*(group for group, _ in groups), *each],
            show_progress="hidden",
            trigger_mode="always_last",
            api_visibility="private",
        )
        return cls(tuple(attributes), each)

    def amounts(self, values: Sequence[float]) -> dict[str, float]:
        """The amounts by attribute, of the sliders' values."""
        return dict(zip(self.attributes, values, strict=True))

    def values(self, amounts: dict[str, float]) -> list[float]:
        """The sliders' values for these amounts; an attribute that is left out has 0."""
        return [amounts.get(name, 0.0) for name in self.attributes]
