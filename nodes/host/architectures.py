"""The network of a MODEL as the converter knows networks."""

from comfy.model_patcher import ModelPatcher

from ...sid_core.convert.architecture import Architecture
from .network_names import of_base_model


def architecture_of(model: ModelPatcher) -> Architecture:
    """Its names and shapes; see sid_core/convert/architecture.py."""
    return Architecture.of(of_base_model(model.model))
