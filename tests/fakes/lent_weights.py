"""Stands in for comfy.model_patcher.ModelPatcherDynamic, which newer ComfyUI uses on NVIDIA GPUs alone.

Of the real one it has what a trainer runs into: it says that it is dynamic, and its weights are never all loaded.
"""


class FakeLentWeights:
    """The same MODEL, of that kind."""

    CATEGORY = "tests"
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict:  # noqa: N802  (ComfyUI's name)
        return {"required": {"model": ("MODEL",)}}

    def run(self, model) -> tuple:
        from comfy.model_patcher import ModelPatcher

        class Lent(ModelPatcher):
            def is_dynamic(self) -> bool:
                return True

            def set_in_use_by_current_prompt(self, in_use: bool) -> None:
                """What the executor tells such models, for their pages in memory."""

            def load(self, *_, **__) -> None:
                raise AssertionError("weights that are lent can't be loaded")

        lent = model.clone()
        lent.__class__ = Lent
        return (lent,)


NODE_CLASS_MAPPINGS = {"FakeLentWeights": FakeLentWeights}
