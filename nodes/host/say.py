"""What the pack says in ComfyUI: text on a node, and errors that tell a user what to do, wherever they arise."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import comfy.model_management
import folder_paths
from comfy_execution.utils import get_executing_context

from ...sid_core.words import printable
from . import browsers

# The first of them that an error is of is what it is shown as. Classes of the pack's own would be shown with the path
# of their module in front, and some of Python's can't be made of a text.
SHOWN_AS = (FileNotFoundError, OSError, ImportError, MemoryError, ValueError, TypeError)


def on_node(text: str, node_id: str | None = None) -> None:
    """Show text on a node, where there is a server with a browser or another client to see it.

    node_id: None is the node that is being run.
    """
    server = browsers.server()
    if node_id is None:
        context = get_executing_context()
        node_id = context and context.node_id
    if server is not None and node_id is not None and hasattr(server, "send_progress_text"):
        server.send_progress_text(shown(text), node_id)


def shown(text: object) -> str:
    """Printable, with the paths of ComfyUI's own folders cut to what a user calls them, such as output/sid_runs."""
    said = str(text)
    folders = {
        folder_paths.get_output_directory(): "output",
        folder_paths.get_input_directory(): "input",
        folder_paths.get_temp_directory(): "temp",
        folder_paths.get_user_directory(): "user",
        folder_paths.models_dir: "models",
    }
    for folder in sorted(folders, key=len, reverse=True):  # one may lie in another
        if os.path.dirname(folder) != folder:  # the root would be each slash
            said = said.replace(os.path.join(folder, ""), f"{folders[folder]}/")
    return printable(said)


def add_note(error: BaseException, note: str) -> None:
    """Have `in_words` say this as well, below the error; as BaseException.add_note, which came with Python 3.11."""
    error.__notes__ = [*getattr(error, "__notes__", []), note]


@contextmanager
def in_words() -> Iterator[None]:
    """Whatever goes wrong within it is said on the node as well, and has a text that can be shown everywhere.

    What was noted on it (`add_note`) is said with it. Cancelling and a GPU's lack of memory, which ComfyUI knows by
    their classes, pass as they are.
    """
    try:
        yield
    except comfy.model_management.InterruptProcessingException as error:
        # The last that a node has said of its progress would else stay on it.
        on_node("\n".join(getattr(error, "__notes__", ["Queue again to run this: it was cancelled."])))
        raise
    except comfy.model_management.OOM_EXCEPTION:
        raise
    except Exception as error:  # noqa: BLE001  raised again, in words
        kind = next((kind for kind in SHOWN_AS if isinstance(error, kind)), RuntimeError)
        said = shown(error) or type(error).__name__
        # A KeyError's text is the key alone.
        said = f"{type(error).__name__}: {said}" if isinstance(error, LookupError) else said
        said = "\n".join([said, *map(shown, getattr(error, "__notes__", []))])
        on_node(f"✖ {said}")
        # ComfyUI writes the error, and all that led to it, to its log: one letter that the log's stream lacks would end
        # its worker. So the places it came through are kept, and of the words those that can be written.
        writable = printable(said, getattr(sys.stderr, "encoding", None) or "utf-8")
        raise kind(writable).with_traceback(error.__traceback__) from None
