"""What the contestants are judged by: the demo protocol. Needs `host.start_comfyui()` first."""

from functools import cached_property
from pathlib import Path
from typing import Any

import comfy.model_management
from contestants import TRIAL_SEED, Sizes
from demo_protocol import Protocol
from drawing import Artist, Setting
from evaluate import evaluate, plain
from reference import PAIRS, TRAINING, VARIETY, load_reference

BATCH = 128


class Measuring:
    """The protocol, and an artist for its captions, who has models of his own."""

    @cached_property
    def protocol(self) -> Protocol:
        return Protocol(load_reference(), comfy.model_management.get_torch_device())

    @cached_property
    def artist(self) -> Artist:
        return Artist(self.protocol.captions, BATCH)

    def trial(self, setting: Setting, sizes: Sizes) -> float:
        """The distance that a trial is judged by: to pictures, and of captions, that no other number here is of."""
        prompts = self.protocol.some_prompts(sizes.trial_captions)[PAIRS]
        drawn = self.artist.draw(setting, prompts.places, TRIAL_SEED)
        return self.protocol.score_set(PAIRS, self.protocol.measure(drawn.images, prompts))["distance"]

    def scores(self, setting: Setting, sizes: Sizes) -> dict[str, Any]:
        """Of the training's captions and of variety: by set and measure the mean and deviation over drawings."""
        prompts = self.protocol.some_prompts(sizes.captions)
        result = evaluate(
            setting, self.artist, self.protocol, {name: prompts[name] for name in (TRAINING, VARIETY)}, sizes.draws
        )
        return {
            "title": result.setting.title,
            "scores": plain(result.scores),
            "forwards": result.forwards,
            "seconds_a_picture": result.seconds,
        }


def student_setting(title: str, file: Path, steps: int) -> Setting:
    """A student is drawn with stock `lcm` over its own times, whatever its method."""
    return Setting(steps, student=file, name=title)
