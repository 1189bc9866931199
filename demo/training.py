"""What the demo's small trainings share: a budget of time, checkpoints to go on from, an average that is kept."""

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

WARM_UP = 200  # iterations
EMA_DECAY = 0.998
CHECKPOINT_EVERY = 60  # seconds
NOTE_EVERY = 100  # iterations


class TimedTraining:
    """Networks that learn for so many minutes, all runs together, and the running average of their weights.

    The learning rate warms up, then falls along half a cosine with the time that is spent. A run that is stopped goes
    on from `checkpoint`, which the last one removes.
    """

    def __init__(
        self,
        networks: nn.Module,
        groups: list[dict],
        minutes: float,
        checkpoint: Path,
        matrices: list[nn.Parameter] | None = None,
        matrices_rate: float = 0.0,
    ):
        """groups: of parameters for AdamW, each with its highest learning rate, as torch's optimizers take them.

        matrices: parameters, linear or convolutional, for Muon (Jordan et al. 2024) instead.
        """
        self.networks = networks
        self.seconds = 60 * minutes
        self.checkpoint = checkpoint
        self.iteration, self.spent = 0, 0.0
        average = torch.optim.swa_utils.get_ema_multi_avg_fn(EMA_DECAY)
        self.ema = torch.optim.swa_utils.AveragedModel(networks, multi_avg_fn=average)
        self.optimizers = [torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=0.01, fused=True)]
        self.matrices = matrices or []
        # Muon takes matrices alone: a convolution's weight is one of (out, in x height x width), in the same memory.
        self.flat = [parameter.detach().flatten(1) for parameter in self.matrices]
        if self.flat:
            muon = torch.optim.Muon(self.flat, lr=matrices_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
            self.optimizers.append(muon)
        self.highest_rates = [group["lr"] for group in self._groups()]
        self.parts = {"networks": networks, "ema": self.ema}
        self.parts |= {f"optimizer_{number}": optimizer for number, optimizer in enumerate(self.optimizers)}

    @property
    def average(self) -> nn.Module:
        """The networks with the mean of their latest weights: what is kept of a training."""
        return self.ema.module

    def run(self, loss_of_batch: Callable[[], Tensor], save: Callable[[], None]) -> None:
        """save: called at the end. Random numbers are seeded by the iteration, whichever run it is in."""
        self._resume()
        kept_at, mean_loss, first = self.spent, 0.0, self.iteration
        while self.spent < self.seconds:
            began = time.perf_counter()
            torch.manual_seed(self.iteration)
            loss = self._step(loss_of_batch)
            self.iteration += 1
            self.spent += time.perf_counter() - began
            mean_loss += (loss - mean_loss) / min(self.iteration - first, NOTE_EVERY)
            if self.iteration % NOTE_EVERY == 0:
                left = (self.seconds - self.spent) / 60
                print(f"{self.iteration}: loss {mean_loss:.4f}, {left:.1f} min left", flush=True)
            if self.spent - kept_at > CHECKPOINT_EVERY:
                kept_at = self.spent
                self._keep()
        save()
        self.checkpoint.unlink(missing_ok=True)

    def _step(self, loss_of_batch: Callable[[], Tensor]) -> float:
        for group, highest in zip(self._groups(), self.highest_rates, strict=True):
            group["lr"] = highest * self._share_of_rate()
        loss = loss_of_batch()
        self.networks.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.networks.parameters(), 1.0)
        for flat, parameter in zip(self.flat, self.matrices, strict=True):
            flat.grad = parameter.grad.flatten(1)
        for optimizer in self.optimizers:
            optimizer.step()
        self.ema.update_parameters(self.networks)
        return loss.item()

    def _groups(self) -> list[dict]:
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def _share_of_rate(self) -> float:
        return min(1.0, (self.iteration + 1) / WARM_UP) * 0.5 * (1 + math.cos(self.spent / self.seconds * math.pi))

    def _keep(self) -> None:
        state = {name: part.state_dict() for name, part in self.parts.items()}
        temporary = self.checkpoint.with_suffix(".tmp")
        torch.save(state | {"iteration": self.iteration, "spent": self.spent}, temporary)
        temporary.replace(self.checkpoint)

    def _resume(self) -> None:
        if not self.checkpoint.exists():
            return
        device = next(self.networks.parameters()).device
        state = torch.load(self.checkpoint, map_location=device, weights_only=True)
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        self.iteration, self.spent = state["iteration"], state["spent"]
        print(f"going on at iteration {self.iteration}, after {self.spent / 60:.1f} min", flush=True)


def initialize(network: nn.Module) -> None:
    """The host leaves new weights unset. Fan-in scaling."""
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.kaiming_uniform_(module.weight, a=5**0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.GroupNorm | nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


def lower_precision(device: torch.device, cache_weights: bool = True) -> torch.autocast:
    """Within it, networks compute in bfloat16; but not on a CPU without AVX-512, which takes ten times as long for it.

    cache_weights: whether copies of weights are kept from one forward to the next, between which they may not change.
    """
    slow = device.type == "cpu" and not torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return torch.autocast(device.type, torch.bfloat16, enabled=not slow, cache_enabled=cache_weights)


def attention_in_float32(attention: Callable, q: Tensor, k: Tensor, v: Tensor, *args, **kwargs) -> Tensor:
    """On a CPU the backward of attention is several times slower in bfloat16, while all the rest is faster."""
    with torch.autocast(q.device.type, enabled=False):
        return attention(q.float(), k.float(), v.float(), *args, **kwargs)


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
