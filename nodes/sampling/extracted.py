"""How much of a student a LoRA holds that was made of it, in words and numbers."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ...sid_core.method.low_rank import Factors

WORST = 3  # layers and weights that the summary names


@dataclass(frozen=True)
class Extracted:
    """layers: what the LoRA is of. others: {weight: norm of its difference}, which a LoRA can't hold. targets: which of
    TARGETS the layers are."""

    layers: dict[str, Factors]
    others: dict[str, float]
    targets: str

    @property
    def error(self) -> float:
        """Of all layers together: the norm of what the LoRA lacks, relative to that of their difference."""
        return _norm(each.error for each in self.layers.values()) / _norm(each.norm for each in self.layers.values())

    @property
    def share_of_others(self) -> float:
        """Of all that was learnt, in squares: what is in weights that no LoRA is of."""
        others = _norm(self.others.values()) ** 2
        return others / (others + _norm(each.norm for each in self.layers.values()) ** 2)

    def summary(self) -> list[str]:
        ranks = [each.rank for each in self.layers.values()]
        size = sum(each.down.numel() + each.up.numel() for each in self.layers.values()) * 2 / 1e6
        rank = f"rank {max(ranks)}" if min(ranks) == max(ranks) else f"ranks {min(ranks)} to {max(ranks)}"
        worst = sorted(self.layers, key=self._relative, reverse=True)[:WORST]
        changed = sorted((name for name, norm in self.others.items() if norm), key=self.others.get, reverse=True)
        told = [
            f"{rank} on {len(ranks)} layers ({self.targets}), {size:.1f} MB in float16",
            f"relative error {_percent(self.error)} of the difference; farthest off: "
            + ", ".join(f"{name} {_percent(self._relative(name))}" for name in worst),
        ]
        if changed:
            more = " …" * (len(changed) > WORST)
            told.append(
                f"left out, as no LoRA holds it: {_percent(self.share_of_others)} of what was learnt (squared), in "
                f"{len(changed)} weights such as biases and norms: {', '.join(changed[:WORST])}{more}"
            )
        return told

    def report(self) -> str:
        """The summary, and each layer: its rank and its relative error, the worst first."""
        layers = sorted(self.layers, key=self._relative, reverse=True)
        lines = [f"{_percent(self._relative(name)):>7}  rank {self.layers[name].rank:<4} {name}" for name in layers]
        return "\n".join([*self.summary(), "", "relative error, rank, layer:", *lines])

    def _relative(self, layer: str) -> float:
        factors = self.layers[layer]
        return factors.error / factors.norm if factors.norm else 0.0


def _norm(norms: Iterable[float]) -> float:
    return math.hypot(*norms)


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.0f} %"
