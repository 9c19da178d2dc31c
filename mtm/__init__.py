"""Masked trajectory models: one transformer that acts in many roles by choice of the mask.

>>> policy = mtm.load("model.safetensors").policy("rcbc", num_envs=8, target=0.7)  # doctest: +SKIP
>>> actions = policy.act(observations)  # doctest: +SKIP
"""

from mtm.baselines.mlp import MLPConfig, MLPLearner
from mtm.checkpoint import load
from mtm.dynamics import open_loop, open_loop_error
from mtm.errors import UserError
from mtm.learner import Learner, MTMLearner, held_out_error
from mtm.model import MTM, ModelConfig
from mtm.optim import OptimConfig
from mtm.patterns import MaskConfig
from mtm.policy import Policy
from mtm.represent import features
from mtm.roles import ROLES
from mtm.sampler import HeteromodalConfig, WindowSampler
from mtm.train_state import TrainState, validation_losses
from mtm.trajectory import Modality, TokenizerConfig, returns_to_go, standard_modalities

__all__ = [
    "MTM",
    "ROLES",
    "HeteromodalConfig",
    "Learner",
    "MLPConfig",
    "MLPLearner",
    "MTMLearner",
    "MaskConfig",
    "Modality",
    "ModelConfig",
    "OptimConfig",
    "Policy",
    "TokenizerConfig",
    "TrainState",
    "UserError",
    "WindowSampler",
    "features",
    "held_out_error",
    "load",
    "open_loop",
    "open_loop_error",
    "returns_to_go",
    "standard_modalities",
    "validation_losses",
]
