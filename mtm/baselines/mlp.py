"""An MLP for one role (Wu et al. 2023, section 4: 2 hidden layers of 1024, GELU)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mtm.errors import UserError
from mtm.learner import Learner
from mtm.masks import Mask
from mtm.roles import Role, get_role
from mtm.trajectory import ACTIONS, RETURNS, STATES, Batch, Modality

INPUTS: dict[str, tuple[tuple[str, int], ...]] = {
    "bc": ((STATES, 0),),
    "rcbc": ((STATES, 0), (RETURNS, 0)),
    "id": ((STATES, 0), (STATES, 1)),
    "fd": ((STATES, 0), (ACTIONS, 0)),
}
"""What the MLP of a role is given: modality, and timestep counted from the role's position."""


@dataclass(frozen=True)
class MLPConfig:
    """Size of the MLP. The defaults are the paper's."""

    role: str = "bc"
    """The one role it learns."""
    width: int = 1024
    """Units in a hidden layer."""
    hidden_layers: int = 2
    """Hidden layers."""

    def __post_init__(self) -> None:
        if get_role(self.role).name not in INPUTS:
            raise UserError(f"there is no MLP for role {self.role!r}; there are {', '.join(INPUTS)}")
        if self.width < 1 or self.hidden_layers < 1:
            raise UserError("width and hidden_layers must be at least 1")


class MLPLearner(Learner):
    """One network for one role; sees only what that role's current step offers."""

    kind = "mlp"

    def __init__(self, modalities: tuple[Modality, ...], mlp: MLPConfig):
        window = 1 + max(offset for _, offset in INPUTS[mlp.role])
        window = max(window, 1 + get_role(mlp.role).offset)
        super().__init__(modalities, window, roles=(mlp.role,))
        if self.tokenizer.discrete:
            names = ", ".join(sorted(self.tokenizer.discrete))
            raise UserError(
                f"an MLP reads and gives real numbers, not bins of {names}; leave bins at 0"
            )
        self.mlp = mlp
        inputs = sum(self.tokenizer[name].features for name, _ in INPUTS[mlp.role])
        widths = [inputs] + [mlp.width] * mlp.hidden_layers
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(widths):
            layers += [nn.Linear(fan_in, fan_out), nn.GELU()]
        output = self.tokenizer[get_role(mlp.role).output].features
        self.net = nn.Sequential(*layers, nn.Linear(widths[-1], output))

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        for layer in self.net:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight, generator=generator)
                nn.init.zeros_(layer.bias)

    def forward(
        self, batch: Batch, mask: Mask, known: Mapping[str, torch.Tensor] | None = None
    ) -> dict[str, torch.Tensor]:
        if known:
            names = ", ".join(known)
            raise UserError(
                f"an MLP cannot learn from windows that lack {names}; use labelled ones only"
            )
        role = get_role(self.mlp.role)
        target = self.tokenizer[role.output].normalise(batch[role.output][:, role.offset])
        return {"loss": F.mse_loss(self._normalised(role, batch, 0), target)}

    def predict(
        self, role: Role, batch: Batch, position: int, ahead: int | None = None
    ) -> torch.Tensor:
        return self.tokenizer[role.output].decode(self._normalised(role, batch, position)[:, None])

    def _normalised(self, role: Role, batch: Batch, position: int) -> torch.Tensor:
        """The output in units of its standard deviation [B, dim]."""
        inputs = [
            self.tokenizer[name].normalise(batch[name][:, position + offset])
            for name, offset in INPUTS[role.name]
        ]
        return self.net(torch.cat(inputs, dim=1))

    def config(self) -> dict[str, Any]:
        return {"mlp": asdict(self.mlp)}

    @classmethod
    def from_config(cls, modalities: tuple[Modality, ...], config: Mapping[str, Any]) -> MLPLearner:
        return cls(modalities, MLPConfig(**config["mlp"]))
