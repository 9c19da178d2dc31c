"""Making Gymnasium environments."""

from __future__ import annotations

import logging
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec

from pipeline.datasets import environment_errors


def log_mujoco_warnings() -> None:
    """MuJoCo's warnings to Python's log; of itself it writes MUJOCO_LOG.TXT where the user stands."""
    try:
        import mujoco
    except ModuleNotFoundError:
        return
    mujoco.set_mju_user_warning(logging.getLogger("mujoco").warning)


def make_env(spec: EnvSpec | str, **kwargs: Any) -> gymnasium.Env:
    """The environment of an id or a spec. UserError where it is not installed."""
    log_mujoco_warnings()
    with environment_errors("the dataset"):
        return gymnasium.make(spec, **kwargs)
