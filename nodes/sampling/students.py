"""Students to and from disk."""

from datetime import datetime
from pathlib import Path

import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from torch import Tensor

from ...sid_core.files.atomic import remove_dead
from ...sid_core.files.student import StudentInfo
from ...sid_core.files.tensors import read_tensors, write_new_tensors
from ..host import say
from ..host.model import signature_of
from ..host.node import Node
from ..host.search import found_by
from ..host.weights import patched_weights
from .attached import as_student, attached_lora, student_info, with_lora
from .base import distance_to_base
from .foreign import is_foreign, load_foreign
from .loaded import told_of
from .loras import scaled
from .save_names import expanded, numbered_names, place
from .student_check import is_lora, require_lora, require_network
from .student_list import LORA, WHOLE, find_student, students

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


def load_student(model: ModelPatcher, path: Path, strength: float = 1.0) -> ModelPatcher:
    """The student at `path`, of this pack or of others, on its base MODEL. Raises ValueError for anything that is not a
    whole student of it."""
    return (load_foreign if is_foreign(path) else load_own)(model, path, strength)


def load_own(model: ModelPatcher, path: Path, strength: float = 1.0) -> ModelPatcher:
    """One that this pack has written. Raises ValueError for anything that is not a whole student of the base MODEL.

    What else is patched in the MODEL, such as LoRAs, acts on the student as if it were put onto it afterwards; but for
    what the teacher of a whole network had as well, which this has learnt.
    """
    tensors, metadata = read_tensors(path)
    info = StudentInfo.from_metadata(metadata, path.name)
    base = signature_of(model)
    if info.base != base:
        raise ValueError(
            f"Connect the model that {path.name} was distilled from, or another of exactly that architecture: it is a "
            f"student of {info.base}, and the connected MODEL is {base}."
        )
    lora = is_lora(tensors)
    if not lora and all(name.startswith(PREFIX) for name in tensors):
        tensors = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
    try:
        (require_lora if lora else require_network)(tensors, model)
    except ValueError as error:
        raise ValueError(
            f"Copy {path.name} again, or save the student anew: it is not a whole student of this base ({error})."
        ) from error
    if lora:
        return with_lora(model, scaled(tensors, strength), info)
    distance = distance_to_base(info, model) if model.patches else None
    learnt = distance is not None and distance.patched and distance.is_same
    return as_student(model, tensors, info, strength, below=not learnt)


def save_student(tensors: dict[str, Tensor], info: StudentInfo, folder: str, prefix: str) -> Path:
    """Write a student under a new name in output/`folder`; → the file. Raises ValueError for an unusable prefix."""
    output = Path(folder_paths.get_output_directory())
    where = place(prefix, output)
    target = output / folder / where.parent
    if not target.resolve().is_relative_to((output / folder).resolve()):  # through a link
        raise ValueError(f"Take another filename_prefix: {where.parent} leads out of ComfyUI's output folder.")
    remove_dead(target)
    return write_new_tensors(target, numbered_names(output, where), tensors, info.to_metadata())


class SiDSaveStudent(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SiDSaveStudent",
            **found_by("distillation", "save lora", "export lora"),
            display_name="SiD Save Student",
            category="SiD/students",
            description="Writes a student as safetensors into ComfyUI's output folder, with how it is to be sampled. "
            "SiD Load Student reads it; ComfyUI's own Load LoRA and Load Diffusion Model do too.",
            inputs=[
                io.Model.Input("model", tooltip="From SiD Distill, or a loaded student with patches to bake in."),
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
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, model, filename_prefix, precision, save_as=AS_TRAINED):
        info = student_info(model)
        if info is None:
            raise ValueError(
                "Connect SiD Distill or SiD Load Student as model: this MODEL is not a SiD student, so that nothing "
                "says how it is to be sampled. For other models there is ComfyUI's ModelSave."
            )
        folder, tensors = student_tensors(model, PRECISIONS[precision], merge=save_as == MERGED)
        prefix = expanded(filename_prefix, datetime.now(), cls.hidden.prompt or {})
        path = save_student(tensors, info, folder, prefix)
        said = say.shown(f"saved {path} ({path.stat().st_size / 1e6:.1f} MB)")
        say.on_node(said, cls.hidden.unique_id)
        return io.NodeOutput(str(path), ui={"text": [said]})


class SiDLoadStudent(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SiDLoadStudent",
            **found_by("distillation", "few step", "load lora", "turbo", "lightning", "lcm", "dmd"),
            display_name="SiD Load Student",
            category="SiD/students",
            description="Puts a saved student onto the model it was distilled from. SiD Scheduler and SiD Generate "
            "then know its steps.",
            inputs=[
                io.Model.Input("model", tooltip="The base: the model, or one of the same architecture."),
                io.Combo.Input(
                    "student",
                    options=students(),
                    tooltip="A file that SiD Save Student wrote, or a student of others, in models or output, "
                    f"{LORA} or {WHOLE}. Press R to refresh the list.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    optional=True,
                    tooltip="How far from the base to the student, 0 to 2. 1: as trained. Below, back towards the "
                    "base, which needs more steps; above, past the student.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model")],
        )

    @classmethod
    def fingerprint_inputs(cls, model, student, strength=1.0):
        path = student and find_student(student)
        return f"{path} {path.stat().st_mtime_ns} {path.stat().st_size}" if path else student

    @classmethod
    def validate_inputs(cls, student):
        """In place of the host's own check, which does not say where to put one. A connected input is not known yet."""
        if student is None or (student and find_student(student)):
            return True
        got = f"there is no {student!r:.100}" if student else "none is chosen"
        return (
            f"Choose a student: {got}. SiD Save Student puts them into output/{LORA} and output/{WHOLE}; a file from "
            f"elsewhere belongs into {LORA} or {WHOLE} of models or output. Press R to see it in the list."
        )

    @classmethod
    def execute(cls, model, student, strength=1.0):
        path = find_student(student)
        if path is None:
            raise ValueError(cls.validate_inputs(student))
        if is_foreign(path):  # which says itself what was found
            return io.NodeOutput(load_foreign(model, path, strength))
        loaded = load_own(model, path, strength)
        say.on_node("\n".join(told_of(loaded, model, strength)))
        return io.NodeOutput(loaded)


NODES = [SiDSaveStudent, SiDLoadStudent]
