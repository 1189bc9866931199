"""ComfyUI's server, and what is sent by it to every browser and other client that listens."""

import sys
from typing import Any


def server() -> Any:
    """The one of this process; None in a script that uses ComfyUI's nodes without one."""
    # Not imported here: on some versions a script without a server can't import it.
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)


def send(event: str, data: dict[str, Any]) -> None:
    """To all of them, as a run may be looked at from another tab or machine than it was queued from."""
    instance = server()
    if instance is not None:
        instance.send_sync(event, data)
