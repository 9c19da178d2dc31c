"""Tables: what is reported, with its spread; a machine that cannot render still has its report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import ray

from pipeline.report import _developed, headline, markdown, mean_interval, score_table

FACTS = {
    "dataset_id": "mtm/hopper/expert-v0",
    "train_episodes": 97,
    "train_transitions": 96_000,
    "held_out_episodes": 5,
    "return_mean": 200.0,
    "return_std": 10.0,
    "ref_min_score": 0.0,
    "ref_max_score": 400.0,
}
NO_ERRORS = pd.DataFrame(columns=["policy", "role", "checkpoint", "error"])


def episodes() -> pd.DataFrame:
    """BC of one learner: four episodes, the last two of which are reported."""
    return pd.DataFrame(
        {
            "policy": "MTM",
            "role": "bc",
            "checkpoint": "last",
            "target": np.nan,
            "half": ["selection", "selection", "report", "report"],
            "return": [0.0, 0.0, 90.0, 110.0],
        }
    )


def test_a_row_has_mean_spread_score_and_share() -> None:
    table = score_table(episodes(), FACTS)
    assert list(table["policy"]) == ["behaviour", "MTM"]
    row = table.iloc[1]
    assert (row["return_mean"], row["episodes"]) == (100.0, 2)
    assert row["return_std"] == pytest.approx(np.std([90, 110], ddof=1))
    assert (row["score"], row["share_of_data"]) == (25.0, 0.5)
    assert headline(table, NO_ERRORS, FACTS)["mtm.bc.return"] == 100.0


def test_the_interval_is_the_means() -> None:
    """For normal data the bootstrap interval is close to the textbook's, and it is always the same."""
    values = np.random.default_rng(0).normal(100.0, 10.0, 200)
    low, high = mean_interval(values)
    half = 1.96 * values.std(ddof=1) / np.sqrt(len(values))
    assert low == pytest.approx(values.mean() - half, abs=0.3)
    assert high == pytest.approx(values.mean() + half, abs=0.3)
    assert mean_interval(values) == (low, high)
    assert mean_interval(np.array([5.0, 5.0])) == (5.0, 5.0)


def test_the_markdown_says_what_the_data_were() -> None:
    text = markdown(score_table(episodes(), FACTS), NO_ERRORS, FACTS)
    assert "mtm/hopper/expert-v0, 97 training episodes (96,000 transitions), 5 held out" in text
    assert "100 ± 14" in text


@pytest.mark.usefixtures("ray_cluster")
def test_without_a_renderer_there_is_a_reason_instead_of_a_video(tmp_path: Path) -> None:
    @ray.remote(max_retries=0)
    def broken() -> bytes:
        raise RuntimeError("no EGL device")

    film = _developed(broken.remote(), tmp_path / "rollout.gif")
    assert film == "none: this machine cannot render (RuntimeError: no EGL device)"
    assert not (tmp_path / "rollout.gif").exists()
