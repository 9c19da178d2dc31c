"""Which dataset ids there are, where they lie, and their reference scores."""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mtm.errors import UserError

WEIGHTS = Path(__file__).parent / "behaviour" / "weights"
NAMESPACE = "mtm/"
KINDS = {
    "expert": ("expert",),
    "medium": ("medium",),
    "medium-expert": ("medium", "expert"),
    "replay": ("replay-",),
}
"""Weights that each kind of dataset is rolled out from, in equal shares of the transitions."""

REFERENCE_RETURNS = {
    "Hopper": (-20.27, 3234.3),
    "HalfCheetah": (-280.18, 12135.0),
    "Walker2d": (1.63, 4592.3),
}
"""Mean return of a random and of an expert policy, from D4RL (Fu et al. 2020), by environment."""


def reference_returns(env_id: str | None) -> tuple[float, float] | None:
    """D4RL's random and expert returns for an environment of any version, where it has them."""
    return REFERENCE_RETURNS.get((env_id or "").rsplit("-", 1)[0])


def shipped_datasets() -> dict[str, tuple[Path, ...]]:
    """Dataset ids that can be rolled out here, with the weights files of their behaviour policies."""
    found = {}
    for env in sorted({path.name.split("-")[0] for path in WEIGHTS.glob("*.safetensors")}):
        for kind, prefixes in KINDS.items():
            paths = [sorted(WEIGHTS.glob(f"{env}-{prefix}*.safetensors")) for prefix in prefixes]
            if all(paths):
                found[f"{NAMESPACE}{env}/{kind}-v0"] = tuple(p for group in paths for p in group)
    return found


def behaviour_weights(dataset_id: str) -> tuple[Path, ...]:
    """Weights files behind an id under ``mtm/``. UserError for one that is not shipped."""
    shipped = shipped_datasets()
    if dataset_id not in shipped:
        close = difflib.get_close_matches(dataset_id, shipped, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(shipped)}"
        raise UserError(f"unknown dataset {dataset_id!r}; {hint}")
    return shipped[dataset_id]


def is_shipped(dataset_id: str) -> bool:
    """Whether the id is one that this project rolls out; UserError for a wrong id under ``mtm/``."""
    if not dataset_id.startswith(NAMESPACE):
        return False
    behaviour_weights(dataset_id)
    return True


def current_root() -> str:
    """Minari's data root in this process."""
    from minari.storage import get_dataset_path

    return str(get_dataset_path(""))


@contextmanager
def minari_root(folder: str) -> Iterator[None]:
    """Minari's data root set to ``folder`` for a while."""
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = folder
    try:
        yield
    finally:
        os.environ.pop("MINARI_DATASETS_PATH")
        if before is not None:
            os.environ["MINARI_DATASETS_PATH"] = before


@contextmanager
def environment_errors(name: str) -> Iterator[None]:
    """A UserError where ``name``'s environment is not installed here."""
    from gymnasium.error import Error as GymnasiumError

    try:
        yield
    except (GymnasiumError, ModuleNotFoundError) as error:
        raise UserError(
            f"{name} needs an environment that is not installed ({_first_line(error)}); "
            "install its package, for example gymnasium-robotics"
        ) from error


def open_dataset(dataset_id: str) -> Any:
    """The Minari dataset of that id, downloaded where it is not local. Raises UserError."""
    import minari

    try:
        with environment_errors(f"dataset {dataset_id}"):
            return minari.load_dataset(dataset_id, download=True)
    except UserError:
        raise
    except Exception as error:  # Minari's hosts raise errors of many libraries
        why = _first_line(error)
        folder = _data_folder(dataset_id)
        if folder.exists():
            raise UserError(
                f"dataset {dataset_id} at {folder} cannot be read ({why}); "
                "delete it and fetch or collect it again"
            ) from error
        raise UserError(
            f"dataset {dataset_id} is not in {folder.parent} and could not be downloaded ({why}); "
            "check the id, the network and MINARI_DATASETS_PATH"
        ) from error


def ensure_local(dataset_id: str) -> None:
    """Download a dataset that is not here yet. UserError where that fails.

    Before anything else: what is local has a signature, and the fingerprints hang on it.
    """
    if not is_shipped(dataset_id) and not _data_folder(dataset_id).exists():
        open_dataset(dataset_id)


def local_signature(dataset_id: str) -> str:
    """What tells two states of a local dataset apart, for fingerprints; empty for a remote one."""
    folder = _data_folder(dataset_id)
    if not folder.exists():
        return ""
    rows = [(p.name, p.stat().st_size) for p in sorted(folder.iterdir()) if p.suffix != ".json"]
    rows += [(p.name, p.read_text()) for p in sorted(folder.glob("*.json"))]  # type: ignore[misc]
    return hashlib.sha256(repr(rows).encode()).hexdigest()[:16]


def _data_folder(dataset_id: str) -> Path:
    from minari.storage import get_dataset_path

    return Path(get_dataset_path(dataset_id)) / "data"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
