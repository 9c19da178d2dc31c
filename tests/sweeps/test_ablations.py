"""Studies as DAGs: what cells share, what an arm changes, what is written down."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mtm import UserError
from pipeline.config import Experiment
from pipeline.dag import Node
from sweeps.ablations import (
    Arm,
    Manifest,
    Study,
    Sweep,
    build,
    cells,
    check,
    family,
    override,
    short_names,
)
from sweeps.studies import STUDIES


def smoke(name: str, **changes: object) -> tuple[Study, Sweep]:
    study = STUDIES[name]
    return study, replace(study.base("smoke"), **changes)


def stages(*studies: str) -> dict[str, set[str]]:
    """Fingerprints of everything these studies run, by stage."""
    found: dict[str, set[str]] = {}
    for name in studies:
        for node in build(*smoke(name))[0].ancestors():
            found.setdefault(node.stage, set()).add(node.fingerprint)
    return found


@pytest.mark.parametrize("name", [name for name in STUDIES if name != "minari-benchmark"])
def test_all_cells_share_one_collect_and_one_ingest(name: str) -> None:
    found = stages(name)
    assert len(found["collect"]) == len(found["ingest"]) == len(found["table"]) == 1


@pytest.mark.parametrize(
    ("first", "second", "trainings"),
    [
        # MLP-BC, MLP-RCBC, MTM and heteromodal MTM on 1 %, and MLP-BC on everything.
        ("heteromodal", "data-efficiency", 5),
        # The MTM with the autoregressive pattern, and the S-MTM of RCBC.
        ("capabilities", "mask-patterns", 2),
    ],
)
def test_two_studies_share_their_data_and_the_training_that_they_have_in_common(
    first: str, second: str, trainings: int
) -> None:
    assert len(stages(first, second)["ingest"]) == 1
    shared = stages(first)["pretrain"] & stages(second)["pretrain"]
    assert len(shared) == trainings * smoke(first)[1].seeds


def test_capabilities_has_a_specialist_for_each_role_and_two_generalists() -> None:
    study, sweep = smoke("capabilities")
    made, _ = cells(study, sweep)
    assert len({cell.evaluated.fingerprint for cell in made}) == (4 + 4 + 2) * sweep.seeds
    specialists = [cell for cell in made if cell.arm.label == "S-MTM"]
    for cell in specialists:
        trained = cell.evaluated.upstream[1]
        assert trained.config.learner.mask.pattern == cell.arm.roles[0]
        assert cell.evaluated.config.roles == cell.arm.roles


def test_a_level_is_a_percentage_of_all_episodes_not_of_the_training_ones() -> None:
    study, sweep = smoke("data-efficiency")
    fractions = {
        cell.arm.level: cell.evaluated.upstream[1].config.fraction
        for cell in cells(study, sweep)[0]
        if cell.arm.label == "MTM"
    }
    assert fractions[95.0] == 1.0
    assert fractions[0.5] == pytest.approx(0.005 / 0.95, rel=1e-4)


def test_only_the_heteromodal_arm_uses_episodes_without_actions() -> None:
    study, sweep = smoke("heteromodal")
    for cell in cells(study, sweep)[0]:
        config = cell.evaluated.upstream[1].config
        if cell.arm.label == "Heteromodal MTM":
            assert config.fraction == 1.0
            assert config.heteromodal.labelled_fraction == pytest.approx(0.01 / 0.95, rel=1e-4)
        else:
            assert config.heteromodal.labelled_fraction == 1.0


def test_seeds_change_the_training_and_not_the_data() -> None:
    study, sweep = smoke("mask-patterns", seeds=3, seed=7)
    made, _ = cells(study, sweep)
    assert {cell.seed for cell in made} == {7, 8, 9}
    assert {cell.evaluated.upstream[1].config.seed for cell in made} == {7, 8, 9}


def test_a_dataset_more_is_the_same_study_on_more_data() -> None:
    datasets = ("mtm/hopper/expert-v0", "mtm/walker2d/replay-v0")
    study, sweep = smoke("mask-patterns", datasets=datasets)
    made, ingested = cells(study, sweep)
    assert set(ingested) == {cell.dataset for cell in made} == set(datasets)


def test_the_manifest_survives_being_written_down() -> None:
    node, manifest = build(*smoke("data-efficiency"))
    assert Manifest.from_json(manifest.to_json()) == manifest
    upstream = {up.fingerprint for up in node.upstream}
    assert {entry.fingerprint for entry in manifest.entries} <= upstream


def test_override_changes_one_field_and_nothing_else() -> None:
    base = Experiment()
    changed = override(base, "data.fraction", 0.5)
    assert changed.data.fraction == 0.5
    assert replace(changed, data=base.data) == base


@pytest.mark.parametrize(
    ("field", "hint"),
    [
        ("dat.fraction", "did you mean data?"),
        ("data.fractoin", "did you mean fraction?"),
        ("seed.x", "seed"),
    ],
)
def test_an_unknown_field_is_named(field: str, hint: str) -> None:
    with pytest.raises(UserError, match="there is no field") as error:
        override(Experiment(), field, 1)
    assert hint in str(error.value)


def test_a_value_that_is_not_allowed_is_refused_before_anything_runs() -> None:
    with pytest.raises(UserError, match=r"fraction is 1.5"):
        override(Experiment(), "data.fraction", 1.5)


def test_labels_are_unique_so_that_progress_lines_are() -> None:
    for name in STUDIES:
        names = [node.name for node in _nodes(name)]
        assert len(names) == len(set(names)), name


def _nodes(name: str) -> list[Node]:
    return list(build(*smoke(name))[0].ancestors())


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        ("mtm/hopper/expert-v0", "hopper/expert"),
        ("D4RL/door/expert-v2", "door/expert"),
        ("alone", "alone"),
    ],
)
def test_families_name_what_a_dataset_is(dataset: str, expected: str) -> None:
    assert family(dataset) == expected


def test_the_minari_benchmark_names_the_published_sets() -> None:
    names = STUDIES["minari-benchmark"].base("paper").datasets
    assert "mujoco/hopper/simple-v0" in names
    assert "D4RL/pen/cloned-v2" in names
    assert len(set(names)) == len(names) == 6 * 3 + 2 + 4 * 3


@pytest.mark.parametrize("changes", [{"seeds": 0}, {"datasets": ()}])
def test_an_empty_sweep_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(UserError, match=r"at least"):
        smoke("capabilities", **changes)


def test_datasets_of_one_family_keep_their_whole_names() -> None:
    given = ("mtm/hopper/expert-v0", "mujoco/hopper/expert-v0", "mtm/hopper/replay-v0")
    assert short_names(given) == {given[0]: given[0], given[1]: given[1], given[2]: "hopper/replay"}


def test_what_the_arms_set_cannot_be_changed_from_outside() -> None:
    study, base = smoke("data-efficiency")
    check(study, base, replace(base, optim=replace(base.optim, steps=7), seeds=5))
    with pytest.raises(UserError, match=r"data.fraction is what data-efficiency sets for its arms"):
        check(study, base, replace(base, data=replace(base.data, fraction=0.5)))


def test_an_arm_without_a_change_is_the_base() -> None:
    study = Study("plain", lambda scale: Sweep(), lambda sweep: [Arm("base")], columns="arm")
    (cell,) = cells(study, Sweep(seeds=1))[0]
    assert cell.evaluated.upstream[1].config.learner.mask == Sweep().mask
