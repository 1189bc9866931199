"""CleanStyle as its authors' attention does it at each call, in our own words."""

from collections.abc import Callable

import torch


class AuthorsWay:
    """A Change with their settings. Their schedule costs nothing, so alpha is always that of the run's beginning."""

    def cond(self, which: str, project: Callable, tokens: torch.Tensor) -> torch.Tensor:
        return self.rescaled(project(tokens), 1, 0.01)

    def uncond(self, which: str, project: Callable, tokens: torch.Tensor, cond_tokens: torch.Tensor) -> torch.Tensor:
        return self.rescaled(project(cond_tokens), 0, 0.2)

    def rescaled(self, x: torch.Tensor, top_k: int, alpha: float) -> torch.Tensor:
        u, s, vh = torch.linalg.svd(x.float(), full_matrices=False)
        s = torch.cat([s[:, :top_k], torch.exp(-alpha * s[:, top_k:]) * s[:, top_k:]], dim=1)
        return (u @ torch.diag_embed(s) @ vh).to(x.dtype)
