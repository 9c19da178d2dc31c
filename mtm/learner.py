"""A learner: a network with its tokenizer, its training loss, and its answer in each role."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import nn

from mtm import loss, masks
from mtm.errors import UserError
from mtm.masks import Mask, MaskConfig
from mtm.model import MTM, ModelConfig
from mtm.roles import Role, get_role
from mtm.tokenizers import TrajectoryTokenizer
from mtm.trajectory import Batch, Modality

if TYPE_CHECKING:
    from mtm.policy import Policy


class Learner(nn.Module, ABC):
    """What training, evaluation and checkpoints need to know of a model."""

    kind: ClassVar[str]
    tokenizer: TrajectoryTokenizer

    def __init__(self, modalities: tuple[Modality, ...], window: int, roles: tuple[str, ...]):
        super().__init__()
        self.modalities, self.window, self.roles = modalities, window, roles
        self.tokenizer = TrajectoryTokenizer(modalities)
        self.facts: dict[str, Any] = {}
        """Where the weights come from (environment, dataset, step); JSON, kept in checkpoints."""

    def draw(self, generator: torch.Generator) -> Mask:
        """The mask of one training step; empty for a learner that uses none."""
        return {}

    @abstractmethod
    def initialise(self, generator: torch.Generator) -> None:
        """Draw the initial weights."""

    @abstractmethod
    def forward(self, batch: Batch, mask: Mask) -> dict[str, torch.Tensor]:
        """Training losses, ``loss`` among them, of raw windows [B, T, dim]."""

    @abstractmethod
    def predict(self, role: Role, batch: Batch, position: int) -> torch.Tensor:
        """The token that ``role`` reads, normalised [B, D], from raw windows [B, T, dim]."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """JSON from which ``from_config`` builds the same learner, weights apart."""

    @classmethod
    @abstractmethod
    def from_config(cls, modalities: tuple[Modality, ...], config: Mapping[str, Any]) -> Learner: ...

    def role(self, name: str) -> Role:
        """The role of that name, if this learner has learned it; raises UserError if not."""
        role = get_role(name)
        if name not in self.roles:
            raise UserError(f"this {self.kind} has no role {name!r}; it has {', '.join(self.roles)}")
        return role

    def policy(self, role: str, num_envs: int = 1, target: float | np.ndarray = 1.0) -> Policy:
        """Act in ``num_envs`` environments at once; see ``mtm.policy.Policy``."""
        from mtm.policy import Policy

        return Policy(self, role, num_envs, target)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device


class MTMLearner(Learner):
    """The masked trajectory model with its training mask pattern."""

    kind = "mtm"

    def __init__(self, modalities: tuple[Modality, ...], model: ModelConfig, mask: MaskConfig):
        super().__init__(modalities, model.window, roles=("bc", "rcbc", "id", "fd"))
        self.mask = mask
        self.model = MTM(
            model,
            features={name: t.features for name, t in self.tokenizer.items()},
            tokens_per_step={name: t.tokens_per_step for name, t in self.tokenizer.items()},
        )

    def initialise(self, generator: torch.Generator) -> None:
        self.model.initialise(generator)

    def draw(self, generator: torch.Generator) -> Mask:
        return masks.draw(self.mask, self.window, self.model.tokens_per_step, generator)

    def forward(self, batch: Batch, mask: Mask) -> dict[str, torch.Tensor]:
        tokens = self.tokenizer.encode(batch)
        return loss.reconstruction(self.model(tokens, mask), tokens)

    def predict(self, role: Role, batch: Batch, position: int) -> torch.Tensor:
        mask = role.mask(self.window, self.model.tokens_per_step, position)
        tokens = self.model(self.tokenizer.encode(batch), mask)[role.output]
        return tokens[:, position + role.offset].flatten(1)

    def config(self) -> dict[str, Any]:
        return {"model": asdict(self.model.config), "mask": asdict(self.mask)}

    @classmethod
    def from_config(cls, modalities: tuple[Modality, ...], config: Mapping[str, Any]) -> MTMLearner:
        mask = {**config["mask"], "visible_fractions": tuple(config["mask"]["visible_fractions"])}
        return cls(modalities, ModelConfig(**config["model"]), MaskConfig(**mask))


@torch.inference_mode()
def held_out_error(learner: Learner, role_name: str, batches: list[Batch]) -> float:
    """Mean squared error of the token a role reads, in normalised units, over raw windows.

    The windows [B, T, dim] may be longer than the learner's own; the position is the last step
    but one, so that every learner answers for the same targets.
    """
    role, tokenizer = learner.role(role_name), learner.tokenizer
    was_training = learner.training
    learner.eval()
    total = torch.zeros((), device=learner.device, dtype=torch.float64)
    count = 0
    for batch in batches:
        steps = next(iter(batch.values())).shape[1]
        predicted = learner.predict(role, batch, steps - 2)
        target = tokenizer[role.output].encode(batch[role.output])[:, steps - 2 + role.offset]
        total += (predicted - target.flatten(1)).double().square().sum()
        count += predicted.numel()
    learner.train(was_training)
    return float(total) / count
