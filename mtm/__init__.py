"""Masked trajectory models: one transformer that acts in many roles by choice of the mask.

>>> policy = mtm.load("model.safetensors").policy("rcbc", num_envs=8, target=0.9)  # doctest: +SKIP
>>> actions = policy.act(observations)  # doctest: +SKIP
"""

from mtm.baselines.mlp import MLPConfig, MLPLearner
from mtm.checkpoint import load
from mtm.errors import UserError
from mtm.learner import Learner, MTMLearner, held_out_error
from mtm.masks import MaskConfig
from mtm.model import MTM, ModelConfig
from mtm.optim import OptimConfig
from mtm.policy import Policy
from mtm.roles import ROLES
from mtm.sampler import WindowSampler
from mtm.train_state import TrainState, validation_losses
from mtm.trajectory import Modality, returns_to_go, standard_modalities

__all__ = [
    "MTM",
    "ROLES",
    "Learner",
    "MLPConfig",
    "MLPLearner",
    "MTMLearner",
    "MaskConfig",
    "Modality",
    "ModelConfig",
    "OptimConfig",
    "Policy",
    "TrainState",
    "UserError",
    "WindowSampler",
    "held_out_error",
    "load",
    "returns_to_go",
    "standard_modalities",
    "validation_losses",
]
