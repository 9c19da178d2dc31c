"""A learner: a network with its tokenizer, its training loss, and its answer in each role."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import nn

from mtm import loss, patterns
from mtm.errors import UserError
from mtm.masks import Mask, hide_unknown
from mtm.model import MTM, ModelConfig
from mtm.patterns import MaskConfig
from mtm.roles import ROLES, Role, get_role
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

    def draw(self, generator: torch.Generator, count: int) -> Mask:
        """The mask of a training step of ``count`` windows; empty for a learner that uses none."""
        return {}

    @abstractmethod
    def initialise(self, generator: torch.Generator) -> None:
        """Draw the initial weights."""

    @abstractmethod
    def forward(
        self, batch: Batch, mask: Mask, known: Mapping[str, torch.Tensor] | None = None
    ) -> dict[str, torch.Tensor]:
        """Training losses, ``loss`` among them, of raw windows [B, T, dim].

        ``known`` says of which windows a modality is known, [B] or []; by default of all.
        """

    @abstractmethod
    def predict(
        self, role: Role, batch: Batch, position: int, ahead: int | None = None
    ) -> torch.Tensor:
        """What ``role`` reads, raw values [B, dim], from raw windows [B, T, dim].

        ``position`` is the window's current step, ``ahead`` how many steps later a wanted state
        stands (by default at the window's end).
        """

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

    def policy(
        self,
        role: str,
        num_envs: int = 1,
        target: float | np.ndarray = 1.0,
        goal: np.ndarray | None = None,
        due: int | np.ndarray | None = None,
    ) -> Policy:
        """Act in ``num_envs`` environments at once; see ``mtm.policy.Policy``."""
        from mtm.policy import Policy

        return Policy(self, role, num_envs, target, goal, due)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device


class MTMLearner(Learner):
    """The masked trajectory model with its training mask pattern."""

    kind = "mtm"

    def __init__(self, modalities: tuple[Modality, ...], model: ModelConfig, mask: MaskConfig):
        super().__init__(modalities, model.window, tuple(ROLES))
        self.mask = mask
        self.model = MTM(
            model,
            features={name: t.features for name, t in self.tokenizer.items()},
            tokens_per_step={name: t.tokens_per_step for name, t in self.tokenizer.items()},
        )

    def initialise(self, generator: torch.Generator) -> None:
        self.model.initialise(generator)

    def draw(self, generator: torch.Generator, count: int) -> Mask:
        each = self.mask.per == "window"
        drawn = patterns.draw(
            self.mask, self.window, self.model.tokens_per_step, count if each else 1, generator
        )
        return drawn if each else {name: tokens[0] for name, tokens in drawn.items()}

    def forward(
        self, batch: Batch, mask: Mask, known: Mapping[str, torch.Tensor] | None = None
    ) -> dict[str, torch.Tensor]:
        tokens = self.tokenizer.encode(batch)
        predicted = self.model(tokens, hide_unknown(mask, known or {}))
        return loss.reconstruction(predicted, tokens, known, self.tokenizer.discrete)

    def predict(
        self, role: Role, batch: Batch, position: int, ahead: int | None = None
    ) -> torch.Tensor:
        place = (self.window, self.model.tokens_per_step, position, ahead)
        tokens = self.tokenizer.encode(batch)
        first = role.first_mask(*place)
        if first is not None:
            imagined = self.tokenizer.encode(self.tokenizer.decode(self.model(tokens, first)))
            tokens = {
                name: torch.where(first[name][..., None].to(self.device), tokens[name], imagined[name])
                for name in tokens
            }
        read = self.model(tokens, role.mask(*place))[role.output][:, position + role.offset]
        return self.tokenizer[role.output].decode(read)

    def config(self) -> dict[str, Any]:
        return {"model": asdict(self.model.config), "mask": asdict(self.mask)}

    @classmethod
    def from_config(cls, modalities: tuple[Modality, ...], config: Mapping[str, Any]) -> MTMLearner:
        mask: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in config["mask"].items()
        }
        return cls(modalities, ModelConfig(**config["model"]), MaskConfig(**mask))


@torch.inference_mode()
def held_out_error(learner: Learner, role_name: str, batches: list[Batch]) -> float:
    """Mean squared error of what a role reads, in normalised units, over raw windows [B, T, dim].

    The current step stands at the last place that the role can have in these windows, which an MTM
    needs to be of its own length. WAYPOINT's error is the mean over all distances.
    """
    role, tokenizer = learner.role(role_name), learner.tokenizer
    was_training = learner.training
    learner.eval()
    total = torch.zeros((), device=learner.device, dtype=torch.float64)
    count = 0
    for batch in batches:
        steps = next(iter(batch.values())).shape[1]
        position, output = role.positions(steps)[-1], tokenizer[role.output]
        target = output.normalise(batch[role.output][:, position + role.offset])
        for ahead in range(1, steps - position) if role_name == "waypoint" else [None]:
            error = output.normalise(learner.predict(role, batch, position, ahead)) - target
            total += error.double().square().sum()
            count += error.numel()
    learner.train(was_training)
    return float(total) / count
