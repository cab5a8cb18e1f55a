"""Figures and videos of a report for TensorBoard, beside the scalars that training writes."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image
from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

from nacre.errors import printable
from nacre.files import cannot, make_folder
from nacre.logs import new_events

FIGURES = "figures"
"""The folder in a run. It is one of its own, as TensorBoard stops reading a file when the folder has a newer one, and
the run may still be in training."""
RESOLUTION = 80
"""Dots per inch of figures that are 9 inches wide."""
FRAMES_PER_SECOND = 10
COLOURS = 64
"""Of a video, which TensorBoard wants to be a GIF."""


def write_board(run: Path, step: int, figures: Mapping[str, Figure], videos: Sequence[Path] = ()) -> Path:
    """Writes figures and videos as images into the folder `figures` of a run.

    Args:
        run: the run folder.
        step: environment steps of collection after which the agent did what they show.
        figures: by tag.
        videos: MP4 files, which get the tags `videos/NAME`.

    Returns:
        the folder.

    Raises:
        NacreError: it cannot be written.
    """
    folder = run / FIGURES
    make_folder(folder)
    images = {tag: _png(figure) for tag, figure in figures.items()}
    images |= {f"videos/{printable(video.stem)}": _gif(video) for video in videos}
    try:
        writer = new_events(folder)
        for tag, (content, width, height) in images.items():
            image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=content)
            summary = Summary(value=[Summary.Value(tag=tag, image=image)])
            writer.write_event(Event(wall_time=time.time(), step=step, summary=summary))
        writer.close()
    except OSError as error:
        raise cannot("write events in", folder, error) from error
    return folder


Encoded = tuple[bytes, int, int]
"""A picture that is encoded, its width, and its height."""


def _png(figure: Figure) -> Encoded:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=RESOLUTION, facecolor="white")
    return file.getvalue(), *Image.open(file).size


def _gif(video: Path) -> Encoded:
    """A video in half its size, with fewer frames and colours."""
    import av  # here: it takes as long as NumPy to import, and no other figure needs it

    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        rate = stream.average_rate or Fraction(FRAMES_PER_SECOND)
        every = max(1, round(rate / FRAMES_PER_SECOND))
        size = stream.width // 2, stream.height // 2
        frames = [
            frame.to_image(width=size[0], height=size[1]).quantize(COLOURS)
            for number, frame in enumerate(container.decode(video=0))
            if number % every == 0
        ]
    file = io.BytesIO()
    milliseconds = round(1000 * every / rate)
    frames[0].save(file, format="GIF", save_all=True, append_images=frames[1:], duration=milliseconds, loop=0)
    return file.getvalue(), *size
