"""Connecting to Ray, quietly."""

from __future__ import annotations

import logging
import os


def start_ray() -> None:
    """Connect to the cluster that RAY_ADDRESS names, as in a submitted job, or start one here."""
    import ray

    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "15")
    os.environ.setdefault("RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    ray.init(
        address=os.environ.get("RAY_ADDRESS") or "local",
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env={"env_vars": {"PYTHONWARNINGS": "ignore"}},
    )
