"""A SiDDistill for a test's ComfyUI: it tells which rank it runs in, and does what the test has planned for it."""

import json
import os
import signal
import time
from pathlib import Path

import comfy.model_management
import folder_paths


class SiDDistill:
    """Leaves its environment in output/seen-RANK-ATTEMPT.json. plan: {"RANK": what it does}, also "RANK-ATTEMPT"."""

    CATEGORY = "tests"
    RETURN_TYPES = ("MODEL", "STRING")
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict:  # noqa: N802  (ComfyUI's name)
        return {"required": {"plan": ("STRING", {"default": "{}"})}, "optional": {"needed": ("IMAGE",)}}

    def run(self, plan: str, needed: object = None) -> tuple[object, str]:
        output = Path(folder_paths.get_output_directory())
        output.mkdir(exist_ok=True)
        rank, attempt = os.environ.get("RANK", "0"), os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        seen = output / f"seen-{rank}-{attempt}.json"
        seen.write_text(json.dumps(dict(os.environ)), encoding="utf-8")
        while len(list(output.glob(f"seen-*-{attempt}.json"))) < int(os.environ.get("WORLD_SIZE", "1")):
            time.sleep(0.05)  # as ranks that train together do
        plans = json.loads(plan)
        does = plans.get(f"{rank}-{attempt}", plans.get(rank))
        if does == "die":
            time.sleep(1)  # until ComfyUI has told which node it runs
            os.kill(os.getpid(), signal.SIGKILL)
        elif does == "fail":
            raise ValueError("the settings do not fit")
        elif does == "hang":
            time.sleep(600)
        elif does == "train":
            self._train(output / f"saved-{rank}")
        return None, str(output)

    def _train(self, saved: Path) -> None:
        try:
            while True:
                time.sleep(0.05)
                comfy.model_management.throw_exception_if_processing_interrupted()
        except comfy.model_management.InterruptProcessingException:
            time.sleep(1)
            saved.touch()
            raise


NODE_CLASS_MAPPINGS = {"SiDDistill": SiDDistill}
