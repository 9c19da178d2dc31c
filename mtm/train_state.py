"""One training step, and all that is needed to go on from it. No files, no logging."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from mtm.errors import UserError
from mtm.learner import Learner
from mtm.model import Dropout
from mtm.optim import OptimConfig, adamw
from mtm.sampler import HeteromodalConfig, WindowSampler


class TrainState:
    """Weights, optimizer, random generators and step of a run.

    Every worker holds the same episodes and the same generators: one draw gives the global
    batch's windows, its mask and its dropout noise, and worker ``rank`` of ``world_size`` takes
    its slice. ``wrap`` makes the learner data-parallel; it is called once.
    """

    def __init__(
        self,
        learner: Learner,
        config: OptimConfig,
        sampler: WindowSampler,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        wrap: Callable[[nn.Module], nn.Module] = lambda module: module,
        heteromodal: HeteromodalConfig | None = None,
    ):
        if config.batch_size % world_size:
            raise UserError(
                f"batch_size {config.batch_size} cannot be split over {world_size} workers; "
                f"use a multiple of {world_size}"
            )
        self.heteromodal = heteromodal or HeteromodalConfig()
        if self.heteromodal.batches == "mixed" and config.batch_size // world_size % 2:
            raise UserError(
                f"batch_size {config.batch_size} over {world_size} workers is no even number each, "
                "as mixed batches need; double it"
            )
        self.learner, self.config, self.sampler = learner, config, sampler
        self.rank, self.world_size, self.step = rank, world_size, 0
        self.mask_generator = torch.Generator().manual_seed(seed)
        self.generator = torch.Generator(learner.device).manual_seed(seed + 1)
        for module in learner.modules():
            if isinstance(module, Dropout):
                module.generator, module.rank, module.world_size = self.generator, rank, world_size
        self.optimizer = adamw(learner, config)
        self.forward = wrap(learner)

    def train_step(self) -> dict[str, torch.Tensor]:
        """Take one optimizer step; losses of this worker's slice, still on the device."""
        self.learner.train()
        learning_rate = self.config.learning_rate_at(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        count = self.config.batch_size
        index, known = self.sampler.draw(count, self.generator, self.heteromodal.kind(self.step))
        mask = self.learner.draw(self.mask_generator, count)
        windows = self.sampler.windows(self._mine(index, 1))
        mask = {name: self._mine(tokens, 3) for name, tokens in mask.items()}
        known = {name: self._mine(is_known, 1) for name, is_known in known.items()}
        losses = self.forward(windows, mask, known)
        self.optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        self.optimizer.step()
        self.step += 1
        return {name: value.detach() for name, value in losses.items()}

    def _mine(self, values: torch.Tensor, dims: int) -> torch.Tensor:
        """This worker's slice of what has a value for each window, and so ``dims`` dimensions."""
        if values.dim() < dims:
            return values
        return values.view(self.world_size, -1, *values.shape[1:])[self.rank]

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Everything a resumed run needs to end bit for bit as an unbroken one; tensors only."""
        state = {f"learner.{k}": v for k, v in self.learner.state_dict().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            state |= {f"optimizer.{index}.{k}": v for k, v in moments.items()}
        state["generator.mask"] = self.mask_generator.get_state()
        state["generator.device"] = self.generator.get_state()
        state["step"] = torch.tensor(self.step)
        return state

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        moments: dict[int, dict[str, Any]] = {}
        for name, value in state.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".")
                moments.setdefault(int(index), {})[key] = value
        prefix = "learner."
        self.learner.load_state_dict(
            {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        )
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.mask_generator.set_state(state["generator.mask"].cpu())
        self.generator.set_state(state["generator.device"].cpu())
        self.step = int(state["step"])


@torch.inference_mode()
def validation_losses(
    learner: Learner, sampler: WindowSampler, windows: int, seed: int = 0, masks: int = 64
) -> dict[str, float]:
    """Training losses without dropout on held-out windows, the same windows and masks every time.

    Every window counts as fully known.
    """
    generator = torch.Generator().manual_seed(seed)
    was_training = learner.training
    learner.eval()
    batches = list(sampler.evenly(windows, max(1, -(-windows // masks))))
    totals: dict[str, torch.Tensor] = {}
    for batch in batches:
        mask = learner.draw(generator, len(next(iter(batch.values()))))
        for name, value in learner(batch, mask).items():
            totals[name] = totals.get(name, torch.zeros_like(value)) + value / len(batches)
    learner.train(was_training)
    return {name: float(value) for name, value in totals.items()}
