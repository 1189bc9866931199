"""What a long node tells its user while it works: the bar, the text on the node, the console, preview pictures."""

import logging
import time

import comfy.model_management
import comfy.utils
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

log = logging.getLogger(__name__)
CONSOLE_SECONDS = 10.0
NODE_SECONDS = 0.5
PREVIEW_SIZE = 768


class Progress:
    """Reports on `total` iterations of the node `node_id`; raises the host's interrupt when the user has cancelled."""

    def __init__(self, total: int, batch: int, node_id: str | None):
        self.total, self.batch, self.node_id = total, batch, node_id
        self.notices: list[str] = []  # stay on the node, below the progress
        self.bar = comfy.utils.ProgressBar(total)
        self.said_on_node = self.said_on_console = float("-inf")

    def begin(self, first: int) -> None:
        """The clock starts now; `first`: the iteration that a continued run goes on from."""
        self.began, self.first = time.monotonic(), first

    def update(self, iteration: int, note: str) -> None:
        """After an iteration; `note`: such as the losses."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        self.bar.update_absolute(iteration, self.total)
        now = time.monotonic()
        seconds = now - self.began
        done = iteration - self.first
        left = seconds / done * (self.total - iteration)
        rate = done * self.batch / seconds
        text = f"step {iteration}/{self.total}, {note}, {rate:.1f} images/s, {duration(left)} left"
        last = iteration == self.total
        if last or now - self.said_on_node > NODE_SECONDS:
            self.said_on_node = now
            say_on_node("\n".join([text, *(f"⚠ {notice}" for notice in self.notices)]), self.node_id)
        if last or now - self.said_on_console > CONSOLE_SECONDS:
            self.said_on_console = now
            log.info("SiD: %s", text)

    def show(self, iteration: int, picture: Image.Image) -> None:
        """Show a preview on the node."""
        self.bar.update_absolute(iteration, self.total, ("JPEG", picture, PREVIEW_SIZE))


def say_on_node(text: str, node_id: str | None) -> None:
    """Show text on the node, where there is a server with a browser or another client to see it."""
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    if server is not None and node_id is not None and hasattr(server, "send_progress_text"):
        server.send_progress_text(text, node_id)


def duration(seconds: float) -> str:
    """Such as '42 s', '3 min' or '2 h 5 min'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def picture_grid(pictures: Tensor, columns: int = 4) -> Image.Image:
    """IMAGE (B, H, W, 3) in [0, 1] as one picture, row by row."""
    batch, height, width, _ = pictures.shape
    columns = min(columns, batch)
    sheet = Image.new("RGB", (columns * width, -(-batch // columns) * height), "white")
    for i, picture in enumerate(pictures.clamp(0, 1).mul(255).round().byte().cpu().numpy()):
        sheet.paste(Image.fromarray(picture), (i % columns * width, i // columns * height))
    return sheet


def labelled_rows(sections: dict[str, Tensor]) -> Image.Image:
    """{label: IMAGE (B, H, W, 3)} as one picture: each label above its pictures; small ones enlarged to be seen."""
    columns = 4 if len(sections) <= 2 else 8
    grids = {label: picture_grid(pictures, columns) for label, pictures in sections.items()}
    widest = max(grid.width for grid in grids.values())
    factor = max(1, PREVIEW_SIZE // widest)
    width = factor * widest
    text_size = width // 32
    band = 2 * text_size
    sheet = Image.new("RGB", (width, sum(band + factor * grid.height for grid in grids.values())), "white")
    draw, y = ImageDraw.Draw(sheet), 0
    for label, grid in grids.items():
        # Pillow's own font, at the left and in the middle of its band.
        draw.text((text_size // 2, y + band // 2), label, "black", ImageFont.load_default(text_size), anchor="lm")
        sheet.paste(grid.resize((factor * grid.width, factor * grid.height), Image.Resampling.LANCZOS), (0, y + band))
        y += band + factor * grid.height
    return sheet
