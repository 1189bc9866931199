"""ComfyUI entry point. Importing this only defines it, so tests and tools can import the pack without ComfyUI."""

import logging

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """Called by ComfyUI; the nodes are imported here, where ComfyUI is known to be present."""
    try:
        from .nodes.extension import SiDExtension
    except Exception:
        # ComfyUI reports an entry point's error in one line; users need the traceback to know what is missing.
        logging.getLogger(__name__).exception("SiD: the nodes could not be imported")
        raise
    return SiDExtension()
