"""Prompt lists for distillation."""

from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..sid_core.prompts import parse_prompts
from .progress import say_on_node

DEMO_ASSETS = Path(__file__).parent.parent / "demo" / "assets"
Prompts = io.Custom("SID_PROMPTS")


def read_prompt_file(name: str) -> str:
    """The text of a file given by its path, by its name in ComfyUI's input folder, or by that of one of the demo's.

    Raises FileNotFoundError and ValueError that name the file and what to do.
    """
    places = [Path(name).expanduser(), Path(folder_paths.get_input_directory()) / name, DEMO_ASSETS / name]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise FileNotFoundError(
            f"there is no prompt file {name!r}; looked for {' and '.join(str(place) for place in places)}. Give the "
            "full path of a text file, or put it into ComfyUI's input folder."
        )
    try:
        text = found.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{found} is not UTF-8 text ({error.reason} at byte {error.start}); expected a text file with one prompt a "
            "line. Save it as 'UTF-8' in a text editor."
        ) from error
    if "\0" in text:
        raise ValueError(f"{found} is not a text file; expected UTF-8 text with one prompt a line.")
    return text


class SiDPrompts(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SiDPrompts",
            display_name="SiD Prompts",
            category="SiD/training",
            description="The prompts a student is distilled on: one a line, from the box, a file, or both. Blank lines "
            "and lines that begin with # are skipped, duplicates are dropped.",
            inputs=[
                io.String.Input(
                    "text", multiline=True, default="", tooltip="One prompt a line; # begins a comment line."
                ),
                io.String.Input(
                    "file",
                    default="",
                    tooltip="A UTF-8 text file: its full path, or its name in ComfyUI's input folder. emoji_names.txt "
                    "comes with the pack. Empty: none.",
                ),
            ],
            outputs=[
                Prompts.Output(display_name="prompts"),
                io.Int.Output(display_name="count"),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, text, file):
        # Read again when the file has changed on disk; a missing file fails in execute, with its message.
        try:
            return f"{text}\n{read_prompt_file(file)}" if file.strip() else text
        except (OSError, ValueError) as error:
            return str(error)

    @classmethod
    def execute(cls, text, file):
        parsed = parse_prompts(f"{text}\n{read_prompt_file(file.strip()) if file.strip() else ''}")
        if not parsed.prompts:
            raise ValueError(
                "there are no prompts: the box and the file hold only blank lines and # comments. Write one prompt a "
                "line."
            )
        said = f"{len(parsed.prompts)} prompts" + (
            f", {parsed.duplicates} duplicates dropped" * bool(parsed.duplicates)
        )
        say_on_node(said, cls.hidden.unique_id)
        return io.NodeOutput(parsed, len(parsed.prompts), ui={"text": [said]})


NODES = [SiDPrompts]
