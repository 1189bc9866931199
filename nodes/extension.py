"""All nodes of the pack, for ComfyUI's loader."""

from comfy_api.latest import ComfyExtension, io

from .cleanstyle import conditioning as cleanstyle_conditioning
from .cleanstyle import model as cleanstyle
from .cleanstyle import spectrum as cleanstyle_spectrum
from .demo import node as demo
from .evaluation import node as evaluation
from .image_prompts import ip_adapter
from .panel import routes
from .sampling import extraction, guiders, students
from .sampling import few_step as sampling
from .training import distill, images, options, prompts
from .training import evaluation as training_evaluation


class SiDExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        routes.register()  # here: 0.3.75 calls no other method
        modules = (
            sampling,
            guiders,
            prompts,
            images,
            distill,
            options,
            training_evaluation,
            evaluation,
            students,
            extraction,
            demo,
        )
        modules += (demo, cleanstyle, ip_adapter, cleanstyle_conditioning, cleanstyle_spectrum)
        return [node for module in modules for node in module.NODES]
