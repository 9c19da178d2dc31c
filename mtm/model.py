"""The masked trajectory model (Wu et al., ICML 2023, section 3; arXiv 2305.02968)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from mtm.errors import UserError
from mtm.masks import Mask, is_shared


@dataclass(frozen=True)
class ModelConfig:
    """Size of the transformer. The defaults are the paper's for D4RL."""

    width: int = 512
    """Features of a token inside the transformers."""
    heads: int = 4
    """Attention heads."""
    encoder_layers: int = 2
    """Layers of the encoder, which sees visible tokens only."""
    decoder_layers: int = 1
    """Layers of the decoder, which sees every token."""
    dropout: float = 0.1
    """Dropout on each residual branch and inside the MLPs."""
    window: int = 4
    """Timesteps in a window (T)."""

    def __post_init__(self) -> None:
        for name in ("width", "heads", "encoder_layers", "decoder_layers"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.window < 2:
            raise UserError(f"window is {self.window}; a window needs at least 2 timesteps")
        if self.width % self.heads or self.width % 2:
            raise UserError(f"width {self.width} must be even and a multiple of heads {self.heads}")
        if not 0.0 <= self.dropout < 1.0:
            raise UserError(f"dropout is {self.dropout}; it lies in [0, 1)")


class Dropout(nn.Module):
    """Dropout with noise from a generator that the training step sets.

    The noise is drawn for the global batch and sliced, so that a window meets the same noise
    whichever worker it falls to: any number of workers gives one and the same run.
    """

    def __init__(self, p: float):
        super().__init__()
        self.p = p
        self.generator: torch.Generator | None = None
        self.rank, self.world_size = 0, 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or self.p == 0.0:
            return x
        local = x.shape[0]
        keep = torch.empty((local * self.world_size, *x.shape[1:]), dtype=x.dtype, device=x.device)
        keep.bernoulli_(1.0 - self.p, generator=self.generator)
        keep = keep[self.rank * local : (self.rank + 1) * local]
        return x * keep / (1.0 - self.p)


class Attention(nn.Module):
    """Bidirectional multi-head self-attention."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, attend: torch.Tensor | None = None) -> torch.Tensor:
        """``x`` [B, tokens, W]; ``attend`` [B, 1, tokens, tokens], True where a query may look at a key."""
        batch, tokens, width = x.shape
        qkv = self.qkv(x).view(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=attend)
        return self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))


class Block(nn.Module):
    """Pre-norm transformer layer with an MLP of ratio 4."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        self.attention = Attention(config.width, config.heads)
        self.mlp = nn.Sequential(
            nn.Linear(config.width, 4 * config.width),
            nn.GELU(),
            Dropout(config.dropout),
            nn.Linear(4 * config.width, config.width),
        )
        self.dropout1, self.dropout2 = Dropout(config.dropout), Dropout(config.dropout)

    def forward(self, x: torch.Tensor, attend: torch.Tensor | None = None) -> torch.Tensor:
        x = x + self.dropout1(self.attention(self.norm1(x), attend))
        return x + self.dropout2(self.mlp(self.norm2(x)))


class Transformer(nn.Module):
    """Layers and a final LayerNorm."""

    def __init__(self, config: ModelConfig, layers: int):
        super().__init__()
        self.blocks = nn.ModuleList(Block(config) for _ in range(layers))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, x: torch.Tensor, attend: torch.Tensor | None = None) -> torch.Tensor:
        for block in self.blocks:
            x = block(x, attend)
        return self.norm(x)


def timestep_encoding(steps: int, width: int) -> torch.Tensor:
    """Fixed sine-cosine encoding of the timestep [T, W], halved as in the reference."""
    frequency = 10_000.0 ** -(torch.arange(width // 2, dtype=torch.float64) / (width / 2))
    angle = torch.arange(steps, dtype=torch.float64)[:, None] * frequency
    return (torch.cat([angle.sin(), angle.cos()], dim=1) / 2).float()


class TokenEncoding(nn.Module):
    """What is added to a token to say where it stands: its modality, its place, its timestep."""

    def __init__(self, config: ModelConfig, tokens_per_step: dict[str, int]):
        super().__init__()
        self.modalities = tuple(tokens_per_step)  # ParameterDict sorts its keys
        self.place = nn.ParameterDict(
            {name: nn.Parameter(torch.zeros(1, p, config.width)) for name, p in tokens_per_step.items()}
        )
        self.register_buffer("time", timestep_encoding(config.window, config.width), persistent=False)
        self.time: torch.Tensor

    def forward(self) -> torch.Tensor:
        """[N, W], modality after modality."""
        return torch.cat(
            [(self.time[:, None] + self.place[name]).flatten(0, 1) for name in self.modalities]
        )


class MTM(nn.Module):
    """Fill in the hidden tokens of a trajectory.

    ``features`` and ``tokens_per_step`` give D and P for each modality, in their order within a
    timestep.
    """

    def __init__(self, config: ModelConfig, features: dict[str, int], tokens_per_step: dict[str, int]):
        super().__init__()
        self.config, self.features, self.tokens_per_step = config, features, tokens_per_step
        width = config.width
        self.encoder_embed = nn.ModuleDict({m: nn.Linear(d, width) for m, d in features.items()})
        self.encoder_encoding = TokenEncoding(config, tokens_per_step)
        self.encoder = Transformer(config, config.encoder_layers)
        self.decoder_embed = nn.ModuleDict({m: nn.Linear(width, width) for m in features})
        self.mask_token = nn.ParameterDict({m: nn.Parameter(torch.zeros(width)) for m in features})
        self.decoder_encoding = TokenEncoding(config, tokens_per_step)
        self.decoder = Transformer(config, config.decoder_layers)
        self.head = nn.ModuleDict(
            {
                m: nn.Sequential(
                    nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, d)
                )
                for m, d in features.items()
            }
        )

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Linear layers Xavier-uniform with zero bias, learned encodings and mask tokens N(0, 0.02)."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight, generator=generator)
                nn.init.zeros_(module.bias)
        for learned in (self.encoder_encoding.place, self.decoder_encoding.place, self.mask_token):
            for parameter in learned.values():
                nn.init.normal_(parameter, std=0.02, generator=generator)

    def forward(self, tokens: dict[str, torch.Tensor], mask: Mask) -> dict[str, torch.Tensor]:
        """Predicted tokens [B, T, P, D] for every place, from the visible ones alone.

        ``tokens`` [B, T, P, D]; ``mask`` [T, P], one for the batch, or [B, T, P], True where visible.
        Values at hidden places are never read.
        """
        if is_shared(mask):
            where = self.visible_places(mask)
            filled = self.fill(self.encode(tokens, where), where)
        else:
            filled = self.encode_each(tokens, mask)
        decoded = self.decoder(self.embed_again(filled) + self.decoder_encoding())
        return self.read(decoded)

    def visible_places(self, mask: Mask) -> dict[str, torch.Tensor]:
        """Indices of the visible tokens among a modality's T * P."""
        device = self.encoder_encoding.time.device
        return {name: mask[name].flatten().nonzero()[:, 0].to(device) for name in self.features}

    def encode(self, tokens: dict[str, torch.Tensor], where: dict[str, torch.Tensor]) -> torch.Tensor:
        """Encoder outputs of the visible tokens [B, visible, W]."""
        embedded, encoding = [], self.encoder_encoding().split(self.places)
        for (name, embed), place in zip(self.encoder_embed.items(), encoding, strict=True):
            visible = tokens[name].flatten(1, 2)[:, where[name]]
            embedded.append(embed(visible) + place[where[name]])
        return self.encoder(torch.cat(embedded, dim=1))

    def fill(self, encoded: torch.Tensor, where: dict[str, torch.Tensor]) -> torch.Tensor:
        """Encoder outputs at their places, mask tokens at all others [B, N, W]."""
        filled, visible = [], encoded.split([len(index) for index in where.values()], dim=1)
        for (name, index), outputs, places in zip(where.items(), visible, self.places, strict=True):
            hidden = self.mask_token[name].expand(len(encoded), places, -1)
            filled.append(hidden.index_copy(1, index, outputs.to(hidden.dtype)))
        return torch.cat(filled, dim=1)

    def encode_each(self, tokens: dict[str, torch.Tensor], mask: Mask) -> torch.Tensor:
        """Like ``fill(encode())`` where each window has its own mask [B, N, W].

        Windows then differ in the number of visible tokens. All places go through the encoder, and
        hidden ones are hidden from attention: a visible token meets visible ones only.
        """
        batch, device = len(next(iter(tokens.values()))), self.encoder_encoding.time.device
        flat = {name: m.expand(batch, -1, -1).flatten(1).to(device) for name, m in mask.items()}
        visible = torch.cat([flat[name] for name in self.features], dim=1)
        itself = torch.eye(visible.shape[1], dtype=torch.bool, device=device)
        embedded = [
            embed(tokens[name].flatten(1, 2).masked_fill(~flat[name][..., None], 0.0))
            for name, embed in self.encoder_embed.items()
        ]
        # Every token may look at itself: the softmax of a window that sees nothing is then defined.
        encoded = self.encoder(
            torch.cat(embedded, dim=1) + self.encoder_encoding(),
            (visible[:, None, None, :] | itself),
        )
        hidden = [
            self.mask_token[name].expand(places, -1)
            for name, places in zip(self.features, self.places, strict=True)
        ]
        return torch.where(visible[..., None], encoded, torch.cat(hidden).to(encoded.dtype))

    def embed_again(self, filled: torch.Tensor) -> torch.Tensor:
        """The decoder's linear embedding of each modality, mask tokens included [B, N, W]."""
        parts = filled.split(self.places, dim=1)
        embeds = self.decoder_embed.values()
        return torch.cat([embed(part) for embed, part in zip(embeds, parts, strict=True)], dim=1)

    def read(self, decoded: torch.Tensor) -> dict[str, torch.Tensor]:
        """Predicted tokens [B, T, P, D] from decoder outputs [B, N, W]."""
        return {
            name: self.head[name](out).unflatten(1, (self.config.window, self.tokens_per_step[name]))
            for name, out in zip(self.features, decoded.split(self.places, dim=1), strict=True)
        }

    @property
    def places(self) -> list[int]:
        """Tokens of each modality in a window, T * P."""
        return [self.config.window * p for p in self.tokens_per_step.values()]
