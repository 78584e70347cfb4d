"""Thumbnails of a run in a notebook: how the images change, beside the bar."""

from __future__ import annotations

import base64
import io
from typing import Any

from fastdc.loop.events import Event, Snapshot, Started

_THUMBNAILS = 12  # of a run, beside that of its start
_SIDE = 320  # pixels at most of a thumbnail's longer side


class ThumbnailStrip:
    """A strip in the output of a notebook's cell that grows by a thumbnail of the images, evenly over the iterations; needs IPython."""

    def __init__(self) -> None:
        self._figures: list[str] = []
        self._total, self._every = 0, 1
        self._shown: Any = None

    def wants_snapshot(self, iteration: int) -> bool:
        """Whether a thumbnail is due."""
        return iteration % self._every == 0 or iteration == self._total

    def __call__(self, event: Event, /) -> None:
        """Add the thumbnail of a snapshot."""
        match event:
            case Started():
                self._total = event.config.iterations or 0
                self._every = max(1, -(-self._total // _THUMBNAILS))
            case Snapshot():
                self._figures.append(_figure(event))
                self._show()

    def _show(self) -> None:
        from IPython.display import HTML, display

        strip = HTML(f'<div style="display:flex;flex-wrap:wrap;gap:8px">{"".join(self._figures)}</div>')
        if self._shown is None:
            self._shown = display(strip, display_id=True)
        else:
            self._shown.update(strip)


def _figure(snapshot: Snapshot) -> str:
    """A thumbnail with its iteration below, as HTML."""
    picture, content = snapshot.condensed.grid(), io.BytesIO()
    picture.thumbnail((_SIDE, _SIDE))
    picture.save(content, format="PNG")
    source = f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
    caption = f"iteration {snapshot.iteration}"
    return f'<figure style="margin:0"><img src="{source}" alt="the images after {caption}"><figcaption>{caption}</figcaption></figure>'
