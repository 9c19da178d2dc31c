"""A short rollout as a GIF: the behaviour policy, where it ships, beside the MTM."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import ray
from gymnasium.envs.registration import EnvSpec

from mtm import checkpoint
from pipeline import datasets
from pipeline.behaviour.policy import BehaviourPolicy
from pipeline.environments import make_env

STEPS, EVERY, SIZE = 300, 5, 240


@ray.remote(num_cpus=1, runtime_env={"env_vars": {"MUJOCO_GL": "egl"}}, max_retries=0)
def render(content: bytes, facts: dict[str, Any], target: float, seed: int) -> bytes:
    """The GIF, left to right: the behaviour policy, the MTM as RCBC. In a process of its own,
    for MuJoCo chooses how to render once, when it is imported."""
    import imageio.v3 as iio
    from PIL import Image, ImageDraw

    learner, _ = checkpoint.from_bytes(content, "the checkpoint")
    policy = learner.policy("rcbc", target=target)
    titled: list[tuple[str, Callable[[np.ndarray, Any], np.ndarray]]] = []
    if datasets.is_shipped(facts["dataset_id"]):
        behaviour = BehaviourPolicy.load(datasets.behaviour_weights(facts["dataset_id"])[-1])
        rng = np.random.default_rng(seed)
        titled.append(
            ("behaviour policy", lambda obs, space: behaviour.act(obs, rng, space.low, space.high))
        )
    titled.append(("MTM", lambda obs, space: np.clip(policy.act(obs), space.low, space.high)))
    strips = [_frames(facts["env_spec"], act, seed) for _, act in titled]
    length = max(map(len, strips))
    # A policy that has fallen keeps its last picture.
    strips = [frames + frames[-1:] * (length - len(frames)) for frames in strips]
    pictures = []
    for frames in zip(*strips, strict=True):
        picture = Image.fromarray(np.concatenate(frames, axis=1))
        for i, (title, _) in enumerate(titled):
            ImageDraw.Draw(picture).text((8 + i * frames[0].shape[1], 6), title, fill="white")
        pictures.append(np.asarray(picture))
    buffer = io.BytesIO()
    iio.imwrite(buffer, pictures, extension=".gif", duration=40, loop=0)
    return buffer.getvalue()


def _frames(env_spec: str, act: Callable[[np.ndarray, Any], np.ndarray], seed: int) -> list[np.ndarray]:
    """Every fifth picture of the first steps of an episode."""
    options: dict[str, Any] = {}
    if "gymnasium.envs.mujoco" in env_spec:
        options = {"width": SIZE, "height": SIZE, "camera_name": "track"}
    env = make_env(EnvSpec.from_json(env_spec), render_mode="rgb_array", **options)
    obs, _ = env.reset(seed=seed)
    frames = []
    for step in range(STEPS):
        if step % EVERY == 0:
            frames.append(np.asarray(env.render()))
        obs, _, terminated, truncated, _ = env.step(act(obs[None], env.action_space)[0])
        if terminated or truncated:
            break
    env.close()
    return frames
