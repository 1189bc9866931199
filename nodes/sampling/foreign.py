"""Students of others, converted as they are loaded."""

from pathlib import Path

from comfy.model_patcher import ModelPatcher

from ...sid_core.convert.facts import Facts
from ...sid_core.convert.sources import open_source
from ...sid_core.convert.students import student_of
from ...sid_core.convert.tensor_file import TensorFile
from ...sid_core.convert.what import PICKLES, SAFETENSORS, kind_of
from ...sid_core.files.student import PREFIX
from ...sid_core.files.tensors import LONGEST, is_finite
from ...sid_core.words import log
from ..host import say
from ..host.architectures import architecture_of
from .attached import as_student, with_lora
from .loras import scaled
from .student_check import require_network


def is_foreign(path: Path) -> bool:
    """Whether it is of another tool: a whole file that says nothing of itself as a student of this pack does."""
    if not path.is_file():  # a pipe would be waited for
        return False
    if (kind := kind_of(path)) != SAFETENSORS:
        return kind in PICKLES
    with path.open("rb") as file:
        if int.from_bytes(file.read(8), "little") > LONGEST:
            return False
    return not any(key.startswith(PREFIX) for key in TensorFile(path).metadata)


def load_foreign(model: ModelPatcher, path: Path, strength: float = 1.0) -> ModelPatcher:
    """The student in a foreign file, or of the folder that the file is of, on its base MODEL, under what is patched in
    that already; what was found is said on the node.

    Raises ValueError where it is no student of it, or nothing says how it is to be run.
    """
    student = student_of(open_source(path), architecture_of(model), Facts())
    tensors = {name: weight.whole() for name, weight in student.weights.items()}
    said = "\n".join(f"· {line}" for line in student.told)
    log.info("%s", said)
    say.on_node(said)
    if not student.lora:
        require_network(tensors, model)
        return as_student(model, tensors, student.info, strength, below=True)
    if odd := next((name for name, tensor in tensors.items() if not is_finite(tensor)), None):
        raise ValueError(f"Get another copy of {path.name}: its {odd} has values that are not finite.")
    return with_lora(model, scaled(tensors, strength), student.info)
