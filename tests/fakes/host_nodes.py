"""Nodes that a test's ComfyUI is given as custom nodes: one that fails, one that runs until it is interrupted."""

import time
from pathlib import Path

import comfy.model_management
import comfy.utils
import folder_paths
from server import PromptServer


class FakeFailure:
    """Raises what a user's mistake would make a node raise."""

    CATEGORY = "tests"
    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict:  # noqa: N802  (ComfyUI's name)
        return {"required": {"message": ("STRING", {"default": ""})}}

    def run(self, message: str) -> None:
        raise ValueError(message)


class FakeTraining:
    """Reports steps and text until it is interrupted, and then takes a moment to save, as a training node does."""

    CATEGORY = "tests"
    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict:  # noqa: N802  (ComfyUI's name)
        return {"required": {"steps": ("INT", {"default": 1000})}, "hidden": {"node_id": "UNIQUE_ID"}}

    def run(self, steps: int, node_id: str) -> dict:
        bar = comfy.utils.ProgressBar(steps)
        try:
            for step in range(steps):
                time.sleep(0.05)
                comfy.model_management.throw_exception_if_processing_interrupted()
                bar.update(1)
                PromptServer.instance.send_progress_text(f"loss {1 / (step + 1):.3f}", node_id)
        except comfy.model_management.InterruptProcessingException:
            time.sleep(0.5)
            saved = Path(folder_paths.get_output_directory(), "saved.txt")
            saved.parent.mkdir(exist_ok=True)
            saved.write_text("saved", encoding="utf-8")
            raise
        return {"ui": {"text": ["done"]}}


NODE_CLASS_MAPPINGS = {"FakeFailure": FakeFailure, "FakeTraining": FakeTraining}
