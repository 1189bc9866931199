"""Students to and from disk."""

from pathlib import Path

import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ..sid_core.checkpoint import NotACheckpointError, read_tensors, write_tensors
from ..sid_core.student import StudentInfo
from . import adapt
from .progress import say_on_node

FOLDER = "diffusion_models"
PREFIX = "model.diffusion_model."
PRECISIONS = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def save_student(model: ModelPatcher, path: Path, dtype: torch.dtype) -> None:
    """Write a student's network as safetensors that stock loaders read too. Raises ValueError for other MODELs."""
    info = adapt.student_info(model)
    if info is None:
        raise ValueError(
            "this MODEL is not a SiD student, so there is nothing to say how it is to be sampled. Connect SiDDistill "
            "or SiDLoadStudent; for other models use ComfyUI's ModelSave."
        )
    weights = {PREFIX + key: weight for key, weight in adapt.patched_weights(model, dtype).items()}
    write_tensors(path, weights, info.to_metadata())


def load_student(model: ModelPatcher, path: Path) -> ModelPatcher:
    """The student at `path` on its base MODEL. Raises NotACheckpointError, or ValueError for another base."""
    weights, metadata = read_tensors(path)
    try:
        info = StudentInfo.from_metadata(metadata)
    except NotACheckpointError as error:
        raise NotACheckpointError(f"{path.name} can't be loaded as a student: {error}") from error
    base = adapt.signature_of(model)
    if info.base != base:
        raise ValueError(
            f"{path.name} is a student of {info.base}, but the connected MODEL is {base}. Connect the model it was "
            "distilled from, or another of exactly that architecture."
        )
    weights = {key.removeprefix(PREFIX): weight for key, weight in weights.items()}
    return adapt.as_student(model, weights, info)


class SiDSaveStudent(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SiDSaveStudent",
            display_name="SiD Save Student",
            category="SiD/students",
            description="Writes a student as safetensors into ComfyUI's output folder, with how it is to be sampled. "
            "SiDLoadStudent and ComfyUI's own Load Diffusion Model read it.",
            inputs=[
                io.Model.Input("model", tooltip="From SiDDistill, or a loaded student with patches to bake in."),
                io.String.Input(
                    "filename_prefix",
                    default=f"{FOLDER}/sid_student",
                    tooltip="Folder and name under ComfyUI's output folder; a number is added, so no file is replaced. "
                    f"Files in output/{FOLDER} appear in the loaders.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(PRECISIONS),
                    default="float16",
                    tooltip="Of the weights in the file. float16 is half the size of float32, with no visible loss.",
                ),
            ],
            outputs=[io.String.Output(display_name="path")],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, model, filename_prefix, precision):
        folder, name, counter, _, _ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory()
        )
        path = Path(folder) / f"{name}_{counter:05}_.safetensors"
        save_student(model, path, PRECISIONS[precision])
        said = f"saved {path} ({path.stat().st_size / 1e6:.1f} MB)"
        say_on_node(said, cls.hidden.unique_id)
        return io.NodeOutput(str(path), ui={"text": [said]})


class SiDLoadStudent(io.ComfyNode):
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
                    options=folder_paths.get_filename_list(FOLDER),
                    tooltip=f"A file that SiDSaveStudent wrote, in models/{FOLDER} or output/{FOLDER}. Press R to "
                    "refresh the list.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model")],
        )

    @classmethod
    def fingerprint_inputs(cls, model, student):
        path = student and folder_paths.get_full_path(FOLDER, student)
        return Path(path).stat().st_mtime_ns if path else student

    @classmethod
    def validate_inputs(cls, student):
        """In place of the host's own check, which does not say where to put one. A connected input is not known yet."""
        if student is None or (student and folder_paths.get_full_path(FOLDER, student)):
            return True
        asked = f"there is no student {student!r}" if student else "no student is chosen"
        return (
            f"{asked}. Put a file of SiDSaveStudent into models/{FOLDER} or output/{FOLDER}, press R in the browser, "
            "and choose it."
        )

    @classmethod
    def execute(cls, model, student):
        return io.NodeOutput(load_student(model, Path(folder_paths.get_full_path_or_raise(FOLDER, student))))


NODES = [SiDSaveStudent, SiDLoadStudent]
