"""Checkpoint files: they describe themselves, and a wrong one is refused with one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import mtm
from mtm import (
    MaskConfig,
    MLPConfig,
    MLPLearner,
    ModelConfig,
    MTMLearner,
    UserError,
    checkpoint,
    held_out_error,
    standard_modalities,
)
from tests import fakes


def test_a_checkpoint_needs_nothing_but_itself() -> None:
    learner = fakes.mtm_learner(width=16)
    learner.facts = {"dataset_id": "mtm/hopper/expert-v0", "step": 3}
    loaded, training = checkpoint.from_bytes(checkpoint.to_bytes(learner), "here")
    assert isinstance(loaded, MTMLearner)
    assert loaded.config() == learner.config()
    assert loaded.facts == learner.facts
    assert training == {}
    for name, value in learner.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name])


def test_a_discrete_learner_comes_back_with_its_bins() -> None:
    learner = fakes.mtm_learner(width=16, tokenizer=fakes.BINS)
    loaded, _ = checkpoint.from_bytes(checkpoint.to_bytes(learner), "here")
    assert loaded.modalities == standard_modalities(fakes.STATE_DIM, fakes.ACTION_DIM, fakes.BINS)
    assert loaded.tokenizer.discrete == {"states", "returns", "actions"}
    for name, value in learner.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name])
    windows = [fakes.windows(5)]
    assert held_out_error(loaded, "id", windows) == held_out_error(learner, "id", windows)


@pytest.mark.parametrize(
    "mask",
    [
        MaskConfig("0.2*id+0.8*random", per="window"),
        MaskConfig(mask_ratios=(0.4, 0.15), cut_weights={"actions": 1.0}),
    ],
)
def test_a_mask_config_comes_back_the_same(mask: MaskConfig) -> None:
    learner = fakes.mtm_learner(width=16, mask=mask)
    loaded, _ = checkpoint.from_bytes(checkpoint.to_bytes(learner), "here")
    assert isinstance(loaded, MTMLearner)
    assert loaded.mask == mask
    checkpoint.start_from(learner, loaded, "here")  # the same config is no other shape


def test_a_file_of_another_format_is_refused() -> None:
    content = checkpoint.to_bytes(fakes.mtm_learner(width=16))
    older = content.replace(b'\\"format\\": 2', b'\\"format\\": 1')
    assert older != content
    with pytest.raises(
        UserError, match=r"old\.safetensors has checkpoint format 1 and this version reads 2"
    ):
        checkpoint.from_bytes(older, "old.safetensors")


def test_weights_for_other_bins_are_refused() -> None:
    mine, other = fakes.mtm_learner(width=16), fakes.mtm_learner(width=16, tokenizer=fakes.BINS)
    with pytest.raises(
        UserError, match=r"has 16 bins for states, this run has 0; set the same --tokenizer"
    ):
        checkpoint.start_from(mine, other, "other.safetensors")


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    whole = checkpoint.to_bytes(fakes.mtm_learner(width=16))
    for name, content in {
        "half": whole[: len(whole) // 2],
        "empty": b"",
        "text": b"not a checkpoint",
    }.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(UserError, match="is no checkpoint of this project, or it is damaged"):
            mtm.load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read checkpoint .*nothing.safetensors"):
        mtm.load(tmp_path / "nothing.safetensors")


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"weights": torch.zeros(2)}, path)
    with pytest.raises(UserError, match="is no checkpoint"):
        mtm.load(path)


def test_weights_of_another_state_size_are_refused() -> None:
    mine = fakes.mtm_learner(width=16)
    other = MTMLearner(standard_modalities(7, 2), mine.model.config, mine.mask)
    with pytest.raises(UserError, match="has 7 states, this run has 5 states"):
        checkpoint.start_from(mine, other, "other.safetensors")


def test_weights_of_another_shape_are_refused_with_the_difference() -> None:
    mine = fakes.mtm_learner(width=16)
    other = MTMLearner(fakes.MODALITIES, ModelConfig(width=32), mine.mask)
    with pytest.raises(UserError, match=r"model\.width is 32 there and 16 here"):
        checkpoint.start_from(mine, other, "other.safetensors")
    mlp = MLPLearner(fakes.MODALITIES, MLPConfig("bc", width=8))
    with pytest.raises(UserError, match="another shape"):
        checkpoint.start_from(mine, mlp, "mlp.safetensors")


def test_starting_from_weights_keeps_the_new_datas_statistics() -> None:
    mine, other = fakes.mtm_learner(width=16), fakes.mtm_learner(width=16)
    other.initialise(torch.Generator().manual_seed(5))
    other.tokenizer.fit({name: 3 * value for name, value in fakes.sampler().values.items()})
    before = mine.tokenizer["states"].std.clone()
    checkpoint.start_from(mine, other, "other.safetensors")
    assert torch.equal(mine.tokenizer["states"].std, before)
    weight = "model.encoder.blocks.0.attention.qkv.weight"
    assert torch.equal(mine.state_dict()[weight], other.state_dict()[weight])
