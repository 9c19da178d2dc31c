"""Self-describing checkpoints: safetensors with a JSON header. Nothing is ever unpickled.

One file holds one learner; with ``training`` tensors it is also the state to resume from. Being
one file, it can be written in one step to a folder or to an object store.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from mtm.baselines.mlp import MLPLearner
from mtm.errors import UserError
from mtm.learner import Learner, MTMLearner
from mtm.trajectory import Modality

FORMAT = 2
KINDS: dict[str, type[Learner]] = {kind.kind: kind for kind in (MTMLearner, MLPLearner)}


def to_bytes(learner: Learner, training: Mapping[str, torch.Tensor] | None = None) -> bytes:
    """The learner, and optionally further tensors of a training run, as one file's content."""
    header = {
        "format": FORMAT,
        "kind": learner.kind,
        "modalities": [[m.name, m.dim, m.bins] for m in learner.modalities],
        "config": learner.config(),
        "facts": learner.facts,
    }
    tensors = {f"weights.{k}": v for k, v in learner.state_dict().items()}
    # A training state holds the learner's weights too; they are in the file once.
    own = {k: v for k, v in (training or {}).items() if not k.startswith("learner.")}
    tensors |= {f"training.{k}": v for k, v in own.items()}
    tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    return save_tensors(tensors, metadata={"mtm": json.dumps(header)})


def from_bytes(content: bytes, source: str) -> tuple[Learner, dict[str, torch.Tensor]]:
    """The learner and the training tensors of a file; UserError, naming ``source``, if it is none."""
    try:
        header = json.loads(_metadata(content)["mtm"])
        tensors = load_tensors(content)
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise UserError(
            f"{source} is no checkpoint of this project, or it is damaged ({error}); "
            "give the path of a model.safetensors that mtm wrote"
        ) from error
    if header["format"] != FORMAT:
        raise UserError(
            f"{source} has checkpoint format {header['format']} and this version reads {FORMAT}; "
            "use the version of mtm that wrote it"
        )
    modalities = tuple(Modality(*fields) for fields in header["modalities"])
    learner = KINDS[header["kind"]].from_config(modalities, header["config"])
    learner.facts = header["facts"]
    try:
        learner.load_state_dict(_under(tensors, "weights."))
    except RuntimeError as error:
        raise UserError(f"the weights in {source} do not fit its own description") from error
    training = _under(tensors, "training.")
    if training:
        training |= {f"learner.{k}": v for k, v in _under(tensors, "weights.").items()}
    return learner.eval(), training


def load(path: str | Path) -> Learner:
    """The learner in a checkpoint file, ready to act or predict. Raises UserError."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read checkpoint {path}: {error.strerror}") from error
    return from_bytes(content, str(path))[0]


def start_from(learner: Learner, other: Learner, source: str) -> None:
    """Copy another learner's weights, not its statistics. UserError where the two differ in shape."""
    for mine, theirs in zip(learner.modalities, other.modalities, strict=False):
        if mine.bins != theirs.bins:
            raise UserError(
                f"checkpoint {source} has {theirs.bins} bins for {theirs.name}, this run has {mine.bins}; "
                "set the same --tokenizer"
            )
        if mine != theirs:
            raise UserError(
                f"checkpoint {source} has {theirs.dim} {theirs.name}, this run has {mine.dim} {mine.name}; "
                "start from a checkpoint of the same environment"
            )
    if (learner.kind, learner.config()) != (other.kind, other.config()):
        differences = _differences(learner.config(), other.config())
        raise UserError(f"checkpoint {source} is of another shape: {differences}; set the same values")
    fitted = {k: v.clone() for k, v in learner.tokenizer.state_dict().items()}
    learner.load_state_dict(other.state_dict())
    learner.tokenizer.load_state_dict(fitted)


def _metadata(content: bytes) -> dict[str, str]:
    """The string metadata of a safetensors file: 8 bytes of length, then that much JSON."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length])["__metadata__"]


def _under(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _differences(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    rows = []
    for section, values in mine.items():
        for name, value in values.items():
            other = theirs.get(section, {}).get(name)
            if json.dumps(other) != json.dumps(value):
                rows.append(f"{section}.{name} is {other} there and {value} here")
    return ", ".join(rows) or "another kind of model"
