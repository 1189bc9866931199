"""All nodes of the pack, for ComfyUI's loader."""

from comfy_api.latest import ComfyExtension, io

from . import demo, distill, guiders, options, prompts, sampling, students


class SiDExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        modules = (sampling, guiders, prompts, distill, options, students, demo)
        return [node for module in modules for node in module.NODES]
