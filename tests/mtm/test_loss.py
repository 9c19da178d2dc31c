"""The reconstruction loss against values worked out by hand."""

from __future__ import annotations

from math import exp, log

import pytest
import torch

from mtm.loss import reconstruction

WINDOWS, STEPS = 4, 3


def errors_of(*errors: float) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Predictions and tokens of which window ``i`` has actions off by ``errors[i]``, states by 1."""
    tokens = {
        "states": torch.zeros(len(errors), STEPS, 1, 5),
        "actions": torch.zeros(len(errors), STEPS, 1, 2),
    }
    off = torch.tensor(errors)[:, None, None, None]
    return {"states": torch.ones_like(tokens["states"]), "actions": tokens["actions"] + off}, tokens


def as_numbers(losses: dict[str, torch.Tensor]) -> dict[str, float]:
    return {name: float(value.detach()) for name, value in losses.items()}


def test_loss_counts_visible_and_hidden_tokens_alike() -> None:
    losses = reconstruction(*errors_of(2.0, 2.0))
    assert as_numbers(losses) == {"loss": 5.0, "states": 1.0, "actions": 4.0}


def test_only_windows_that_have_a_modality_count_for_it() -> None:
    predicted, tokens = errors_of(1.0, 10.0, 3.0, 100.0)
    known = {"actions": torch.tensor([True, False, True, False])}
    losses = reconstruction(predicted, tokens, known)
    assert as_numbers(losses) == {"loss": 6.0, "states": 1.0, "actions": (1 + 9) / 2}


def test_where_all_windows_have_a_modality_saying_so_changes_nothing() -> None:
    predicted, tokens = errors_of(1.0, 10.0, 3.0)
    for known in ({"actions": torch.tensor([True] * 3)}, {"actions": torch.tensor(True)}):
        assert as_numbers(reconstruction(predicted, tokens, known)) == pytest.approx(
            as_numbers(reconstruction(predicted, tokens))
        )


@pytest.mark.parametrize("known", [torch.tensor(False), torch.tensor([False] * 2)])
def test_what_no_window_has_costs_nothing_and_still_has_gradients(known: torch.Tensor) -> None:
    predicted, tokens = errors_of(1.0, 10.0)
    predicted["actions"].requires_grad_()
    losses = reconstruction(predicted, tokens, {"actions": known})
    assert as_numbers(losses) == {"loss": 1.0, "states": 1.0, "actions": 0.0}
    losses["loss"].backward()
    assert torch.equal(predicted["actions"].grad, torch.zeros_like(predicted["actions"]))


def test_discrete_tokens_cost_their_cross_entropy() -> None:
    """Two windows of one step and two tokens of three bins."""
    logits = torch.tensor([[[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]], [[0.0, 1.0, 0.0], [0.0, 0.0, 3.0]]])
    bins = torch.tensor([[1, 0], [0, 2]])
    tokens = torch.nn.functional.one_hot(bins, 3).float()
    losses = reconstruction({"actions": logits[:, None]}, {"actions": tokens[:, None]}, {}, {"actions"})
    by_hand = [log(3), log(exp(2) + 2) - 2, log(exp(1) + 2), log(exp(3) + 2) - 3]
    assert float(losses["actions"]) == pytest.approx(sum(by_hand) / 4, rel=1e-6)
    assert float(losses["loss"]) == pytest.approx(sum(by_hand) / 4, rel=1e-6)
    known = {"actions": torch.tensor([False, True])}
    losses = reconstruction(
        {"actions": logits[:, None]}, {"actions": tokens[:, None]}, known, {"actions"}
    )
    assert float(losses["actions"]) == pytest.approx((by_hand[2] + by_hand[3]) / 2, rel=1e-6)


def test_equal_logits_cost_the_logarithm_of_the_bins() -> None:
    tokens = torch.nn.functional.one_hot(torch.arange(24).view(2, 3, 4) % 16, 16).float()
    losses = reconstruction({"states": torch.zeros(2, 3, 4, 16)}, {"states": tokens}, None, {"states"})
    assert float(losses["states"]) == pytest.approx(log(16), rel=1e-6)


def test_each_modality_has_the_loss_of_its_kind() -> None:
    predicted, tokens = errors_of(2.0)
    predicted["returns"], tokens["returns"] = torch.zeros(1, 3, 1, 2), torch.zeros(1, 3, 1, 2)
    tokens["returns"][..., 1] = 1.0
    losses = reconstruction(predicted, tokens, None, frozenset({"returns"}))
    assert as_numbers(losses) == pytest.approx(
        {"loss": 5.0 + log(2), "states": 1.0, "actions": 4.0, "returns": log(2)}
    )
