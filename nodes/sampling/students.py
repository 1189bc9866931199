"""Students to and from disk."""

from pathlib import Path

import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from torch import Tensor

from ...sid_core.files.student import StudentInfo
from ...sid_core.files.tensors import NotACheckpointError, read_tensors, write_tensors
from ..host import say
from ..host.model import signature_of
from ..host.node import Node
from ..host.weights import patched_weights
from .attached import as_student, attached_lora, student_info, with_lora

WHOLE, LORA = "diffusion_models", "loras"  # folders of ComfyUI, and of its output
AS_TRAINED, MERGED = "as trained", "whole model"
PREFIX = "model.diffusion_model."
PRECISIONS = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def student_tensors(model: ModelPatcher, dtype: torch.dtype, merge: bool) -> tuple[str, dict[str, Tensor]]:
    """What a student's file holds, by names that stock loaders read too, and the folder it belongs in.

    merge: the whole network, also of a student that is a LoRA.
    """
    lora = None if merge else attached_lora(model)
    if lora is not None:
        return LORA, {name: tensor.to(dtype) for name, tensor in lora.items()}
    return WHOLE, {PREFIX + key: weight for key, weight in patched_weights(model, dtype).items()}


def load_student(model: ModelPatcher, path: Path) -> ModelPatcher:
    """The student at `path` on its base MODEL. Raises NotACheckpointError, or ValueError for another base."""
    weights, metadata = read_tensors(path)
    try:
        info = StudentInfo.from_metadata(metadata)
    except NotACheckpointError as error:
        raise NotACheckpointError(f"{path.name} can't be loaded as a student: {error}") from error
    base = signature_of(model)
    if info.base != base:
        raise ValueError(
            f"{path.name} is a student of {info.base}, but the connected MODEL is {base}. Connect the model it was "
            "distilled from, or another of exactly that architecture."
        )
    if any(key.endswith(".lora_down.weight") for key in weights):
        return with_lora(model, weights, info)
    weights = {key.removeprefix(PREFIX): weight for key, weight in weights.items()}
    return as_student(model, weights, info)


class SiDSaveStudent(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SiDSaveStudent",
            display_name="SiD Save Student",
            category="SiD/students",
            description="Writes a student as safetensors into ComfyUI's output folder, with how it is to be sampled. "
            "SiDLoadStudent reads it; ComfyUI's own Load LoRA and Load Diffusion Model do too.",
            inputs=[
                io.Model.Input("model", tooltip="From SiDDistill, or a loaded student with patches to bake in."),
                io.String.Input(
                    "filename_prefix",
                    default="sid_student",
                    tooltip=f"Name in ComfyUI's output/{LORA} for a LoRA and output/{WHOLE} for a whole model, where "
                    "the loaders find it; may have folders. A number is added, so no file is replaced.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(PRECISIONS),
                    default="float16",
                    tooltip="Of the weights in the file. float16 is half the size of float32, with no visible loss.",
                ),
                io.Combo.Input(
                    "save_as",
                    options=[AS_TRAINED, MERGED],
                    default=AS_TRAINED,
                    optional=True,
                    tooltip="'as trained': a LoRA if it is one. 'whole model': the LoRA merged into its base.",
                ),
            ],
            outputs=[io.String.Output(display_name="path")],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, model, filename_prefix, precision, save_as=AS_TRAINED):
        info = student_info(model)
        if info is None:
            raise ValueError(
                "this MODEL is not a SiD student, so there is nothing to say how it is to be sampled. Connect "
                "SiDDistill or SiDLoadStudent; for other models use ComfyUI's ModelSave."
            )
        belongs, tensors = student_tensors(model, PRECISIONS[precision], merge=save_as == MERGED)
        asked = Path(filename_prefix)
        if asked.parts[:1] not in ((WHOLE,), (LORA,)):
            asked = Path(belongs) / asked
        folder, name, counter, _, _ = folder_paths.get_save_image_path(str(asked), folder_paths.get_output_directory())
        path = Path(folder) / f"{name}_{counter:05}_.safetensors"
        write_tensors(path, tensors, info.to_metadata())
        said = f"saved {path} ({path.stat().st_size / 1e6:.1f} MB)"
        say.on_node(said, cls.hidden.unique_id)
        return io.NodeOutput(str(path), ui={"text": [said]})


def find_student(name: str) -> Path | None:
    """The file of that name in ComfyUI's folders of models and LoRAs."""
    paths = (folder_paths.get_full_path(folder, name) for folder in (WHOLE, LORA))
    return next((Path(path) for path in paths if path), None)


class SiDLoadStudent(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SiDLoadStudent",
            display_name="SiD Load Student",
            category="SiD/students",
            description="Puts a saved student onto the model it was distilled from. SiDScheduler and SiDGenerate then "
            "know its steps.",
            inputs=[
                io.Model.Input("model", tooltip="The base: the model, or one of the same architecture."),
                io.Combo.Input(
                    "student",
                    options=[name for folder in (WHOLE, LORA) for name in folder_paths.get_filename_list(folder)],
                    tooltip=f"A file that SiDSaveStudent wrote, in models or output, {LORA} or {WHOLE}. Press R to "
                    "refresh the list.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model")],
        )

    @classmethod
    def fingerprint_inputs(cls, model, student):
        path = student and find_student(student)
        return path.stat().st_mtime_ns if path else student

    @classmethod
    def validate_inputs(cls, student):
        """In place of the host's own check, which does not say where to put one. A connected input is not known yet."""
        if student is None or (student and find_student(student)):
            return True
        asked = f"there is no student {student!r}" if student else "no student is chosen"
        return (
            f"{asked}. Put a file of SiDSaveStudent into the folder {LORA} or {WHOLE} of models or output (such as "
            f"output/{WHOLE}), press R in the browser, and choose it."
        )

    @classmethod
    def execute(cls, model, student):
        return io.NodeOutput(load_student(model, find_student(student) or Path(student)))


NODES = [SiDSaveStudent, SiDLoadStudent]
