"""The page with its two tabs."""

from __future__ import annotations

import gradio as gr

from igan_fast.app.web.api import build_api
from igan_fast.app.web.draw_tab import build_draw_tab
from igan_fast.app.web.edit_tab import build_edit_tab
from igan_fast.editor import FaceEditor

__all__ = ["STYLE", "build_page"]

#: Uploads and results are looked through every ten minutes, and deleted when they are an hour old; in seconds.
_CLEAN_UP = (600, 3600)

#: In a gallery Gradio makes each picture at least 100 pixels wide and high, so that four are wider than a phone. The
#: gallery's label would cover the first ones.
STYLE = """
#faces .grid-container, #drawn .grid-container { grid-template-columns: repeat(4, minmax(0, 1fr));
  grid-template-rows: none; grid-auto-rows: min-content; padding-top: 36px; }
#faces .thumbnail-item, #drawn .thumbnail-item { height: auto; aspect-ratio: 1; }
.gradio-container { max-width: 1500px !important; margin: 0 auto !important; }
@media (min-width: 900px) { #sliders { max-height: 85vh; overflow-y: auto; flex-wrap: nowrap; }
  #sliders > * { flex-shrink: 0; } }
"""


def build_page(editor: FaceEditor, *, can_search: bool = True) -> gr.Blocks:
    """Make the page.

    Args:
        editor: recognises, edits and draws.
        can_search: whether the package that finds faces is installed.
    """
    page: gr.Blocks
    with gr.Blocks(title="igan_fast: edit faces", analytics_enabled=False, delete_cache=_CLEAN_UP) as page:
        gr.Markdown("## Edit faces")
        with gr.Tab("Edit a photo"):
            build_edit_tab(editor, can_search=can_search)
        with gr.Tab("Draw faces") as draw:
            build_draw_tab(editor, draw.select)
        build_api(editor)
    return page
