"""The transformer of Wan2.1 I2V, written out from its formulas, as the measure of rounding.

Source:
    Wan2.1 `wan/modules/model.py`; its weights are found under diffusers' names.

Shapes: L tokens, N tokens of a condition, C channels, H heads, D channels a head.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

LatentShape = tuple[int, int, int]
EPS = 1e-6
_TIME_BASE = 10_000.0


class Formulas:
    """Computes in the dtype of the weights.

    Args:
        weights: The model's, by name; every linear layer has a bias.
        num_heads: H.
        freq_dim: Channels of the sinusoidal embedding of the timestep.
    """

    def __init__(self, weights: Mapping[str, Tensor], num_heads: int, freq_dim: int) -> None:
        self._weights = weights
        self._num_heads = num_heads
        self._freq_dim = freq_dim
        names = (name.split(".") for name in weights)
        self._num_blocks = 1 + max(int(parts[1]) for parts in names if parts[0] == "blocks")

    def predict(
        self, latents: Tensor, timestep: float, text_NC: Tensor, image_NC: Tensor
    ) -> Tensor:
        """Return the patches `[L, P]` of the velocity, given latents `[C, T, H, W]`."""
        channels, frames, height, width = latents.shape
        patches = latents.reshape(channels, frames, height // 2, 2, width // 2, 2)
        patches = patches.permute(1, 2, 4, 0, 3, 5).flatten(3).flatten(0, 2)
        weight = self._weights["patch_embedding.weight"].flatten(1)
        tokens = F.linear(patches, weight, self._weights["patch_embedding.bias"])
        angles = self._angles((frames, height // 2, width // 2))
        time = self._time(timestep)
        six = self._linear("condition_embedder.time_proj", F.silu(time)).unflatten(0, (6, -1))
        text = self._mlp("condition_embedder.text_embedder", text_NC, "linear_1", "linear_2")
        image = self._image(image_NC)
        for number in range(self._num_blocks):
            tokens = self._block(f"blocks.{number}", tokens, six, angles, text, image)
        shift, scale = (self._weights["scale_shift_table"][0] + time).unbind(0)
        return self._linear("proj_out", _norm(tokens) * (1 + scale) + shift)

    def _block(
        self, at: str, tokens: Tensor, six: Tensor, angles: Tensor, text: Tensor, image: Tensor
    ) -> Tensor:
        table = self._weights[f"{at}.scale_shift_table"][0] + six
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = table.unbind(0)
        normed = _norm(tokens) * (1 + scale) + shift
        tokens = tokens + gate * self._self_attention(f"{at}.attn1", normed, angles)
        weight, bias = (self._weights[f"{at}.norm2.{part}"] for part in ("weight", "bias"))
        normed = _norm(tokens) * weight + bias
        tokens = tokens + self._cross_attention(f"{at}.attn2", normed, text, image)
        normed = _norm(tokens) * (1 + ffn_scale) + ffn_shift
        return tokens + ffn_gate * self._mlp(f"{at}.ffn", normed, "net.0.proj", "net.2")

    def _self_attention(self, at: str, tokens: Tensor, angles: Tensor) -> Tensor:
        query, key = (
            self._rotate(
                self._rms(f"{at}.norm_{name}", self._linear(f"{at}.to_{name}", tokens)), angles
            )
            for name in "qk"
        )
        mixed = self._mix(query, key, self._linear(f"{at}.to_v", tokens))
        return self._linear(f"{at}.to_out.0", mixed)

    def _cross_attention(self, at: str, tokens: Tensor, text: Tensor, image: Tensor) -> Tensor:
        query = self._rms(f"{at}.norm_q", self._linear(f"{at}.to_q", tokens))
        key = self._rms(f"{at}.norm_k", self._linear(f"{at}.to_k", text))
        mixed = self._mix(query, key, self._linear(f"{at}.to_v", text))
        key = self._rms(f"{at}.norm_added_k", self._linear(f"{at}.add_k_proj", image))
        mixed = mixed + self._mix(query, key, self._linear(f"{at}.add_v_proj", image))
        return self._linear(f"{at}.to_out.0", mixed)

    def _mix(self, query_LC: Tensor, key_NC: Tensor, value_NC: Tensor) -> Tensor:
        query, key, value = (
            part.unflatten(1, (self._num_heads, -1)).transpose(0, 1)
            for part in (query_LC, key_NC, value_NC)
        )
        scores = query @ key.transpose(1, 2) / math.sqrt(query.shape[-1])
        mixed: Tensor = (scores.softmax(-1) @ value).transpose(0, 1).flatten(1)
        return mixed

    def _rotate(self, tokens_LC: Tensor, angles: Tensor) -> Tensor:
        pairs = tokens_LC.unflatten(1, (self._num_heads, -1, 2))
        turned = torch.view_as_complex(pairs.contiguous()) * torch.polar(
            torch.ones_like(angles), angles
        )
        return torch.view_as_real(turned).flatten(1)

    def _angles(self, grid: LatentShape) -> Tensor:
        """Return the angle of each pair of a head's channels, `[L, 1, D / 2]`.

        A head's channels are shared between height and width, a third each, and frames, the rest.
        """
        weight = self._weights["patch_embedding.weight"]
        head_dim = len(weight) // self._num_heads
        side = 2 * (head_dim // 6)
        parts = []
        positions = torch.meshgrid(
            *(torch.arange(n, dtype=weight.dtype) for n in grid), indexing="ij"
        )
        for position, num_channels in zip(
            positions, (head_dim - 2 * side, side, side), strict=True
        ):
            steps = torch.arange(0, num_channels, 2, dtype=weight.dtype) / num_channels
            parts.append(position.flatten()[:, None] / _TIME_BASE**steps)
        return torch.cat(parts, dim=1)[:, None]

    def _time(self, timestep: float) -> Tensor:
        half = self._freq_dim // 2
        weight = self._weights["patch_embedding.weight"]
        waves = timestep * _TIME_BASE ** (-torch.arange(half, dtype=weight.dtype) / half)
        embedder = "condition_embedder.time_embedder"
        hidden = self._linear(f"{embedder}.linear_1", torch.cat((waves.cos(), waves.sin())))
        return self._linear(f"{embedder}.linear_2", F.silu(hidden))

    def _image(self, image_NC: Tensor) -> Tensor:
        at = "condition_embedder.image_embedder"
        normed = self._affine_norm(f"{at}.norm1", image_NC)
        hidden = F.gelu(self._linear(f"{at}.ff.net.0.proj", normed))
        return self._affine_norm(f"{at}.norm2", self._linear(f"{at}.ff.net.2", hidden))

    def _affine_norm(self, at: str, values: Tensor) -> Tensor:
        normed = F.layer_norm(values, values.shape[-1:], eps=1e-5)
        return normed * self._weights[f"{at}.weight"] + self._weights[f"{at}.bias"]

    def _mlp(self, at: str, values: Tensor, first: str, second: str) -> Tensor:
        hidden = F.gelu(self._linear(f"{at}.{first}", values), approximate="tanh")
        return self._linear(f"{at}.{second}", hidden)

    def _rms(self, at: str, values: Tensor) -> Tensor:
        mean = values.square().mean(-1, keepdim=True)
        return values * torch.rsqrt(mean + EPS) * self._weights[f"{at}.weight"]

    def _linear(self, at: str, values: Tensor) -> Tensor:
        return F.linear(values, self._weights[f"{at}.weight"], self._weights[f"{at}.bias"])


def _norm(values: Tensor) -> Tensor:
    return F.layer_norm(values, values.shape[-1:], eps=EPS)
