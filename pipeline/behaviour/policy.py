"""A behaviour policy as shipped: observation normaliser, a small MLP, a Gaussian over actions.

NumPy only, so that rollout workers need neither torch nor the library that trained it. The file
is safetensors; its metadata says where the policy comes from and what it scores.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

_ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0.0),
}


@dataclass(frozen=True)
class BehaviourPolicy:
    """Gaussian MLP policy.

    ``tensors`` holds ``obs.mean`` and ``obs.std`` [D], ``layers.{i}.weight`` [out, in] and
    ``layers.{i}.bias`` [out] for the trunk, ``mean.weight`` / ``mean.bias`` for the action mean
    and either ``log_std`` [A] (TRPO) or ``log_std.weight`` / ``log_std.bias`` (SAC).

    ``facts`` holds at least ``env_id``, ``activation`` ("tanh" or "relu"), ``squash`` (True: the
    Gaussian is passed through tanh and scaled to the action bounds, as in SAC) and ``noise``, by
    which its standard deviation is multiplied when it acts (0: the mean action).
    """

    tensors: dict[str, np.ndarray]
    facts: dict

    def act(
        self, obs: np.ndarray, rng: np.random.Generator, low: np.ndarray, high: np.ndarray
    ) -> np.ndarray:
        """Actions [N, A], within ``low`` and ``high`` [A], for observations [N, D]."""
        t = self.tensors
        activation = _ACTIVATIONS[self.facts["activation"]]
        x = np.clip((obs - t["obs.mean"]) / t["obs.std"], -10.0, 10.0)
        for i in range(sum(name.startswith("layers.") for name in t) // 2):
            x = activation(x @ t[f"layers.{i}.weight"].T + t[f"layers.{i}.bias"])
        action = x @ t["mean.weight"].T + t["mean.bias"]
        head = "log_std" not in t
        log_std = x @ t["log_std.weight"].T + t["log_std.bias"] if head else t["log_std"]
        std = self.facts["noise"] * np.exp(np.clip(log_std, -20.0, 2.0))
        action = action + std * rng.standard_normal(action.shape)
        if self.facts["squash"]:
            action = low + (np.tanh(action) + 1.0) * 0.5 * (high - low)
        return np.clip(action, low, high).astype(np.float32)

    def save(self, path: Path) -> None:
        tensors = {k: np.ascontiguousarray(v, dtype=np.float32) for k, v in self.tensors.items()}
        save_file(tensors, path, metadata={"behaviour": json.dumps(self.facts)})

    @classmethod
    def load(cls, path: Path) -> BehaviourPolicy:
        with safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return cls(tensors, json.loads(file.metadata()["behaviour"]))
