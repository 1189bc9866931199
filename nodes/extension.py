"""All nodes of the pack, for ComfyUI's loader."""

from comfy_api.latest import ComfyExtension, io

from . import (
    cleanstyle,
    cleanstyle_conditioning,
    cleanstyle_spectrum,
    demo,
    distill,
    guiders,
    ip_adapter,
    options,
    prompts,
    sampling,
    students,
)


class SiDExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        modules = (sampling, guiders, prompts, distill, options, students, demo)
        modules += (cleanstyle, ip_adapter, cleanstyle_conditioning, cleanstyle_spectrum)
        return [node for module in modules for node in module.NODES]
