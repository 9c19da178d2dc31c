"""Tables of a study: their statistics, missing cells, and the three formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.evaluate import ROWS
from pipeline.tracking import Reference, Tracking
from sweeps import tables
from sweeps.ablations import Entry, Manifest
from sweeps.studies import STUDIES


def entry(arm: str, seed: int, roles: tuple[str, ...] = ("id",), level: float | None = None) -> Entry:
    return Entry("mtm/hopper/expert-v0", arm, level, roles, seed, f"{arm}-{seed}-{level}")


def reference(made: Entry, **errors: float) -> Reference:
    """An evaluation of errors alone, for which no file is read."""
    facts = {"checkpoints": ["last"], **{f"last.{role}_error": error for role, error in errors.items()}}
    return Reference("evaluate", made.fingerprint, "run", "nowhere", facts)


ENTRIES = tuple(entry(arm, seed) for arm in ("MLP", "MTM") for seed in (0, 1))
MANIFEST = Manifest("capabilities", ENTRIES, {})


def summary(errors: dict[str, float]) -> pd.DataFrame:
    references = {
        e.fingerprint: reference(e, id=errors[e.fingerprint])
        for e in ENTRIES
        if e.fingerprint in errors
    }
    return tables.summarise(tables.results(MANIFEST, references, ""), MANIFEST)


ALL = {"MLP-0-None": 0.2, "MLP-1-None": 0.4, "MTM-0-None": 0.1, "MTM-1-None": 0.1}


def test_mean_and_spread_are_over_seeds() -> None:
    row = summary(ALL).query("arm == 'MLP' and checkpoint == 'last'").iloc[0]
    assert row["mean"] == pytest.approx(0.3)
    assert row["std"] == pytest.approx(np.std([0.2, 0.4], ddof=1))
    assert (row["seeds"], row["planned"]) == (2, 2)


def test_a_best_checkpoint_that_is_the_last_counts_as_both() -> None:
    table = summary(ALL)
    columns = ["arm", "mean", "std", "iqm"]
    last, best = (table[table["checkpoint"] == name][columns] for name in ("last", "best"))
    pd.testing.assert_frame_equal(last.reset_index(drop=True), best.reset_index(drop=True))


def test_a_missing_cell_is_missing_and_never_a_number() -> None:
    table = summary({"MLP-0-None": 0.2})
    missing = table[table["arm"] == "MTM"]
    assert missing[["mean", "std", "iqm", "low", "high"]].isna().all(axis=None)
    shown = tables.pivot(table, STUDIES["capabilities"])
    assert shown.iloc[0]["MTM"] == "missing"
    assert shown.iloc[0]["MLP"] == "0.2000"  # one seed has no spread
    assert "1/2" in tables.for_people(table)["seeds"].to_list()


def test_the_interval_covers_seeds_as_well_as_episodes() -> None:
    """Two seeds that differ, each with equal episodes: resampling episodes alone would see no spread."""
    iqm, low, high = tables.iqm_interval(np.array([np.full(10, 0.0), np.full(10, 100.0)]))
    assert (low, iqm, high) == (0.0, 50.0, 100.0)


def test_the_iqm_forgets_the_outer_quarters() -> None:
    values = np.array([-1000.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 1000.0])
    assert tables.iqm_interval(values[None])[0] == pytest.approx(3.5)


def test_the_interval_is_that_of_theory_for_one_seed_of_normal_values() -> None:
    values = np.random.default_rng(0).normal(0.0, 1.0, 400)
    _, low, high = tables.iqm_interval(values[None])
    # The interquartile mean of a normal sample has a variance of 1.2 / n.
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(1.2 / 400), rel=0.15)


def test_published_figures_stand_beside_their_arm_and_level() -> None:
    entries = tuple(entry("MTM", 0, ("bc",), level) for level in (95.0, 1.0))
    table = tables.summarise(
        tables.results(Manifest("data-efficiency", entries, {}), {}, ""),
        Manifest("data-efficiency", entries, {}),
    )
    assert table[table["checkpoint"] == "last"]["published_mean"].to_list() == [110.79, 73.74]
    assert summary(ALL)["published_mean"].isna().all()


def test_a_played_cell_is_scored_on_its_reported_episodes_from_mlflow_alone(tmp_path: Path) -> None:
    tracking = Tracking(f"sqlite:///{tmp_path}/mlflow.db", "mtm", str(tmp_path / "artifacts"))
    played = entry("MTM", 0, ("bc", "rcbc"))
    run = tracking.stage_run("evaluate", played.fingerprint, "")
    episodes = pd.DataFrame(
        [
            # Target 0.8 is the best on the selection half; its report half is what counts.
            ("rcbc", 0.7, "selection", 10.0),
            ("rcbc", 0.7, "report", 99.0),
            ("rcbc", 0.8, "selection", 20.0),
            ("rcbc", 0.8, "report", 30.0),
            ("bc", np.nan, "selection", 1.0),
            ("bc", np.nan, "report", 2.0),
        ],
        columns=["role", "target", "half", "return"],
    ).assign(checkpoint="last")
    episodes["score"] = episodes["return"] / 10.0
    run.log_bytes(episodes.to_parquet(index=False), ROWS)
    facts = {"checkpoints": ["last"]}
    reference = Reference("evaluate", played.fingerprint, run.run_id, "nowhere", facts, {ROWS: 1})
    config = Manifest("heteromodal", (played,), {})
    rows = tables.results(config, {played.fingerprint: reference}, tracking.uri)
    last = rows[rows["checkpoint"] == "last"]
    assert dict(zip(last["role"], last["value"], strict=True)) == {"rcbc": 3.0, "bc": 0.2}
    # One episode of one seed has no interval.
    assert tables.summarise(rows, config)[["low", "high", "std"]].isna().all(axis=None)


def test_a_cell_that_could_not_be_played_is_missing() -> None:
    unplayed = entry("MLP", 0, ("bc",))
    config = Manifest("capabilities", (unplayed,), {})
    table = tables.summarise(
        tables.results(config, {unplayed.fingerprint: reference(unplayed)}, ""), config
    )
    assert table["seeds"].eq(0).all()


def test_every_format_holds_the_numbers(tmp_path: Path) -> None:
    references = {e.fingerprint: reference(e, id=ALL[e.fingerprint]) for e in ENTRIES}
    tables.write(MANIFEST, references, tmp_path, summary(ALL))
    for name in ("table.md", "table.tex"):
        assert "0.3000 ± 0.1414" in (tmp_path / name).read_text()
    assert "\\toprule" in (tmp_path / "table.tex").read_text()
    assert len(pd.read_csv(tmp_path / "results.csv")) == 4
    assert (tmp_path / "figure.png").stat().st_size > 5_000


def test_levels_are_columns_of_a_study_over_levels() -> None:
    entries = tuple(entry("MTM", 0, ("id",), level) for level in (95.0, 0.5))
    config = Manifest("data-efficiency", entries, {})
    references = {e.fingerprint: reference(e, id=e.level or 0.0) for e in entries}
    wide = tables.pivot(
        tables.summarise(tables.results(config, references, ""), config), STUDIES["data-efficiency"]
    )
    assert list(wide.columns) == ["dataset", "arm", "role", "95", "0.5"]
