"""The model's arithmetic at the paper's size, against the paper's formulas written out in NumPy.

Forward pass, loss, gradients and optimizer, in double precision: the NumPy side shares no code with
the model and knows of it only the names of its weights.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import erf

from mtm import MTM, ModelConfig, OptimConfig
from mtm.loss import reconstruction
from mtm.optim import adamw

Arrays = dict[str, np.ndarray]

WINDOW, WIDTH, HEADS, ENCODER_LAYERS, DECODER_LAYERS = 4, 512, 4, 2, 1
FEATURES = {"states": 11, "returns": 1, "actions": 3}  # Hopper's
VISIBLE = {"states": [0, 2], "returns": [1], "actions": [0, 1, 3]}
"""Timesteps that the encoder sees: of every modality some, of no two the same."""
BATCH = 3
WEIGHT_DECAY, BETA1, BETA2, EPSILON = 0.005, 0.9, 0.999, 1e-8


# The paper's formulas. Tokens are [B, T, D]; every modality has one token a timestep.


def predict(weights: Arrays, tokens: Arrays) -> Arrays:
    """Predicted tokens of every place, from the visible ones."""
    time = timestep_encoding()
    seen = {}
    for name, steps in VISIBLE.items():
        embedded = linear(weights, f"encoder_embed.{name}", tokens[name][:, steps])
        seen[name] = embedded + weights[f"encoder_encoding.place.{name}"][0, 0] + time[steps]
    encoded = transformer(weights, "encoder", join(seen), ENCODER_LAYERS)

    places = {}
    for name, outputs in split(encoded, seen).items():
        content = np.empty((BATCH, WINDOW, WIDTH))
        content[:] = weights[f"mask_token.{name}"]
        content[:, VISIBLE[name]] = outputs
        embedded = linear(weights, f"decoder_embed.{name}", content)
        places[name] = embedded + weights[f"decoder_encoding.place.{name}"][0, 0] + time
    decoded = transformer(weights, "decoder", join(places), DECODER_LAYERS)

    return {name: head(weights, f"head.{name}", out) for name, out in split(decoded, places).items()}


def timestep_encoding() -> np.ndarray:
    """Sines of falling frequency, then their cosines, all halved."""
    encoding = np.empty((WINDOW, WIDTH))
    for step in range(WINDOW):
        for i in range(WIDTH // 2):
            angle = step / 10_000 ** (2 * i / WIDTH)
            encoding[step, i] = np.sin(angle) / 2
            encoding[step, WIDTH // 2 + i] = np.cos(angle) / 2
    return encoding.astype(np.float32).astype(np.float64)  # the model keeps it in single precision


def transformer(weights: Arrays, name: str, x: np.ndarray, layers: int) -> np.ndarray:
    """Pre-norm layers, then a LayerNorm."""
    for layer in range(layers):
        block = f"{name}.blocks.{layer}"
        x = x + attention(weights, f"{block}.attention", layer_norm(weights, f"{block}.norm1", x))
        hidden = gelu(linear(weights, f"{block}.mlp.0", layer_norm(weights, f"{block}.norm2", x)))
        x = x + linear(weights, f"{block}.mlp.3", hidden)
    return layer_norm(weights, f"{name}.norm", x)


def attention(weights: Arrays, name: str, x: np.ndarray) -> np.ndarray:
    """Every token attends to every token, in each head by its own slice of the features."""
    queries, keys, values = np.split(linear(weights, f"{name}.qkv", x), 3, axis=-1)
    size = WIDTH // HEADS
    mixed = np.empty_like(x)
    for first in range(0, WIDTH, size):
        part = slice(first, first + size)
        scores = queries[..., part] @ keys[..., part].swapaxes(1, 2) / np.sqrt(size)
        attended = np.exp(scores - scores.max(axis=-1, keepdims=True))
        attended /= attended.sum(axis=-1, keepdims=True)
        mixed[..., part] = attended @ values[..., part]
    return linear(weights, f"{name}.out", mixed)


def head(weights: Arrays, name: str, x: np.ndarray) -> np.ndarray:
    """A modality's features from the decoder's outputs."""
    hidden = gelu(linear(weights, f"{name}.1", layer_norm(weights, f"{name}.0", x)))
    return linear(weights, f"{name}.3", hidden)


def linear(weights: Arrays, name: str, x: np.ndarray) -> np.ndarray:
    return np.tensordot(x, weights[f"{name}.weight"], axes=(-1, -1)) + weights[f"{name}.bias"]


def layer_norm(weights: Arrays, name: str, x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred**2).mean(axis=-1, keepdims=True)
    return centred / np.sqrt(variance + 1e-5) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def gelu(x: np.ndarray) -> np.ndarray:
    return x * (1 + erf(x / np.sqrt(2))) / 2


def join(parts: Arrays) -> np.ndarray:
    """One sequence of the tokens of all modalities."""
    return np.concatenate(list(parts.values()), axis=1)


def split(sequence: np.ndarray, parts: Arrays) -> Arrays:
    """What became of each modality's tokens in the sequence that ``join`` made of them."""
    ends = np.cumsum([part.shape[1] for part in parts.values()])
    return dict(zip(parts, np.split(sequence, ends[:-1], axis=1), strict=True))


def squared_errors(predicted: Arrays, tokens: Arrays) -> dict[str, float]:
    """By modality, averaged over all tokens, whether visible or hidden; ``loss`` is their sum."""
    errors = {name: float(((predicted[name] - tokens[name]) ** 2).mean()) for name in tokens}
    return {"loss": sum(errors.values()), **errors}


def adamw_step(
    weight: np.ndarray, gradient: np.ndarray, moments: np.ndarray, step: int, rate: float, decay: float
) -> np.ndarray:
    """The weight after a step, the first of which is 1; ``moments``, two of them, go along in place."""
    moments[0] = BETA1 * moments[0] + (1 - BETA1) * gradient
    moments[1] = BETA2 * moments[1] + (1 - BETA2) * gradient**2
    mean, square = moments[0] / (1 - BETA1**step), moments[1] / (1 - BETA2**step)
    return weight * (1 - rate * decay) - rate * mean / (np.sqrt(square) + EPSILON)


# Weights and tokens by formula, and the model that has them.


def wave(shape: tuple[int, ...], phase: float) -> np.ndarray:
    """A sine that runs ever faster, so that no row of a matrix is like another."""
    index = np.arange(np.prod(shape))
    # The sine of a very large number is slow, hence the remainder.
    return np.sin(0.7 * (index * index % 1_000_003) + phase).reshape(shape)


def is_linear_weight(name: str, value: np.ndarray) -> bool:
    return name.endswith(".weight") and value.ndim == 2


def scaled_wave(name: str, value: np.ndarray, phase: float) -> np.ndarray:
    """A wave of the size that suits this parameter: through it, features keep a variance of about 1."""
    scale = np.sqrt(2 / value.shape[1]) if is_linear_weight(name, value) else 0.3
    return scale * wave(value.shape, phase)


def new_model(dtype: torch.dtype = torch.float64) -> MTM:
    """The model without dropout, where no parameter is zero, and no LayerNorm's weight is one."""
    config = ModelConfig(WIDTH, HEADS, ENCODER_LAYERS, DECODER_LAYERS, dropout=0.1, window=WINDOW)
    model = MTM(config, FEATURES, dict.fromkeys(FEATURES, 1)).double().eval()
    weights = weights_of(model)
    for phase, name in enumerate(sorted(weights)):
        value = weights[name]
        is_norm = name.endswith(".weight") and not is_linear_weight(name, value)
        weights[name] = scaled_wave(name, value, phase) + (1.0 if is_norm else 0.0)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    return model.to(dtype)


def weights_of(model: MTM) -> Arrays:
    return {name: parameter.detach().numpy().copy() for name, parameter in model.named_parameters()}


def in_places(tokens: Arrays, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    """As the model takes them, [B, T, P, D]."""
    return {name: torch.from_numpy(value)[:, :, None].to(dtype) for name, value in tokens.items()}


def run(model: MTM, tokens: Arrays, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    """The model's own predictions."""
    mask = {name: torch.zeros(WINDOW, 1, dtype=torch.bool) for name in VISIBLE}
    for name, steps in VISIBLE.items():
        mask[name][steps] = True
    return model(in_places(tokens, dtype), mask)


def gradients_of(model: MTM, tokens: Arrays) -> Arrays:
    """The model's own gradients."""
    model.zero_grad()
    reconstruction(run(model, tokens), in_places(tokens))["loss"].backward()
    return {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}


@pytest.fixture(scope="module")
def tokens() -> Arrays:
    shapes = {name: (BATCH, WINDOW, size) for name, size in FEATURES.items()}
    return {name: 1.5 * wave(shape, phase) for phase, (name, shape) in enumerate(shapes.items())}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-5)])
def test_predictions_follow_the_papers_formulas(
    tokens: Arrays, dtype: torch.dtype, tolerance: float
) -> None:
    """Those of every modality, at visible and at hidden places."""
    expected = predict(weights_of(new_model()), tokens)
    got = run(new_model(dtype), tokens, dtype)
    assert set(got) == set(expected)
    for name, value in expected.items():
        assert got[name].dtype == dtype
        np.testing.assert_allclose(
            got[name][:, :, 0].detach().numpy(), value, rtol=tolerance, atol=tolerance, err_msg=name
        )


def test_the_loss_follows_the_papers_formula(tokens: Arrays) -> None:
    model = new_model()
    expected = squared_errors(predict(weights_of(model), tokens), tokens)
    got = reconstruction(run(model, tokens), in_places(tokens))
    assert {name: got[name].item() for name in expected} == pytest.approx(expected, rel=1e-11)


def test_gradients_are_the_slopes_of_the_papers_loss(tokens: Arrays) -> None:
    """Every parameter is nudged to and fro, all its entries at once and each by its own amount."""
    model = new_model()
    weights, gradients = weights_of(model), gradients_of(model, tokens)

    def slope(name: str, direction: np.ndarray, nudge: float = 1e-5) -> float:
        """Of the NumPy loss; nudged this far, truncation and rounding are both some 1e-10."""
        ahead, behind = (
            squared_errors(predict(weights | {name: weights[name] + step * direction}, tokens), tokens)
            for step in (nudge, -nudge)
        )
        return (ahead["loss"] - behind["loss"]) / (2 * nudge)

    for name, gradient in gradients.items():
        direction = scaled_wave(name, weights[name], phase=0.5)
        expected = slope(name, direction)
        assert abs(expected) > 1e-3, f"{name} hardly matters here"
        assert (gradient * direction).sum() == pytest.approx(expected, rel=1e-7, abs=2e-9), name
        if name.endswith("qkv.bias"):
            # What a key's bias adds to a query's scores is the same for all keys: softmax drops it.
            keys = np.zeros_like(direction)
            keys[WIDTH : 2 * WIDTH] = direction[WIDTH : 2 * WIDTH]
            assert slope(name, keys) == pytest.approx(0.0, abs=2e-9), name
            assert abs(gradient[WIDTH : 2 * WIDTH]).max() < 1e-13, name


def test_optimizer_steps_follow_adamw_with_decoupled_decay_of_linear_weights(tokens: Arrays) -> None:
    """The second step has another gradient and learning rate, so that the moments matter."""
    model = new_model()
    optimizer = adamw(model, OptimConfig(weight_decay=WEIGHT_DECAY))
    expected = weights_of(model)
    moments = {name: np.zeros((2, *weight.shape)) for name, weight in expected.items()}
    for step, rate in [(1, 1e-3), (2, 4e-4)]:
        for name, gradient in gradients_of(model, tokens).items():
            weight = expected[name]
            decay = WEIGHT_DECAY if is_linear_weight(name, weight) else 0.0
            expected[name] = adamw_step(weight, gradient, moments[name], step, rate, decay)
        for group in optimizer.param_groups:  # as the training step does
            group["lr"] = rate
        optimizer.step()
        for name, weight in weights_of(model).items():
            # Of the weight, not of the step: this is 1e-10 of the learning rate.
            np.testing.assert_allclose(weight, expected[name], rtol=0, atol=1e-13, err_msg=name)
