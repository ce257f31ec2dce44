"""Ulysses: each rank holds a shard of the tokens, and in attention a share of the heads.

Attention processors for `WanTransformer3DModel`. A block passes its `rotary_emb` and
`encoder_hidden_states` to its attention modules without reading them. So a `Shard` and a
`Condition` travel in these arguments, and the processors keep no state.

Shapes: B batch (always 1), L tokens of this rank, S tokens of the whole sequence, R ranks, H heads,
h heads of one rank in attention (H over R), D channels a head, C = H times D.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.distributed as dist
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from diffusers.models.transformers.transformer_wan import WanAttention, WanTransformer3DModel
from torch import Tensor

from ranks.model.kernels import Kernels
from ranks.sampling.attention_cache import AttentionCache

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Attention of queries to keys and values, all `[B, tokens, H, D]`."""


class SequenceGroup:
    """The ranks that share one sequence, and the number of tokens of each.

    Args:
        group: The ranks in the order of their shards; None for a single rank.
        sizes: Number of tokens of each rank.
        shard: Index of this rank's shard.
    """

    def __init__(self, group: dist.ProcessGroup | None, sizes: list[int], shard: int) -> None:
        self.sizes = sizes
        self.shard = shard
        self.num_collectives = 0
        self.num_bytes_sent = 0
        self._group = group

    def take(self, whole: Tensor) -> Tensor:
        """Return this rank's shard `[B, L, ...]` of a whole sequence `[B, S, ...]`."""
        shards: tuple[Tensor, ...] = whole.split(self.sizes, dim=1)
        return shards[self.shard]

    def to_heads(self, qkv_RL3hD: Tensor) -> Tensor:
        """Exchange this rank's tokens of all heads for all tokens of some heads, `[S, 3, h, D]`.

        Args:
            qkv_RL3hD: The heads of each rank, in the order of the ranks.
        """
        if self._group is None:
            return qkv_RL3hD[0]
        num_ranks, num_tokens = qkv_RL3hD.shape[:2]
        received = qkv_RL3hD.new_empty(sum(self.sizes), *qkv_RL3hD.shape[2:])
        sent = qkv_RL3hD.flatten(0, 1)
        self._exchange(received, sent, self.sizes, [num_tokens] * num_ranks)
        return received

    def to_tokens(self, output_ShD: Tensor) -> Tensor:
        """Exchange all tokens of some heads for this rank's tokens of all heads, `[L, H, D]`."""
        if self._group is None:
            return output_ShD
        num_ranks, num_tokens = len(self.sizes), self.sizes[self.shard]
        received = output_ShD.new_empty(num_ranks * num_tokens, *output_ShD.shape[1:])
        self._exchange(received, output_ShD, [num_tokens] * num_ranks, self.sizes)
        # Each rank sent a share of the heads: put the shares side by side.
        by_rank: Tensor = received.unflatten(0, (num_ranks, num_tokens))
        return by_rank.transpose(0, 1).flatten(1, 2)

    def gather(self, shard_BLC: Tensor) -> Tensor:
        """Return the whole sequence `[B, S, C]` on every rank, given each rank's shard."""
        if self._group is None:
            return shard_BLC
        # Shards differ by at most one token; padded to one size, a single collective is enough.
        num_padding = max(self.sizes) - shard_BLC.shape[1]
        padded = torch.nn.functional.pad(shard_BLC, (0, 0, 0, num_padding)).contiguous()
        gathered = [torch.empty_like(padded) for _ in self.sizes]
        self._count(padded)
        dist.all_gather(gathered, padded, group=self._group)
        parts = zip(gathered, self.sizes, strict=True)
        return torch.cat([part[:, :size] for part, size in parts], dim=1)

    def _exchange(
        self, received: Tensor, sent: Tensor, received_sizes: list[int], sent_sizes: list[int]
    ) -> None:
        sent = sent.contiguous()
        self._count(sent)
        dist.all_to_all_single(received, sent, received_sizes, sent_sizes, group=self._group)

    def _count(self, sent: Tensor) -> None:
        self.num_collectives += 1
        self.num_bytes_sent += sent.nbytes


@dataclass(frozen=True, kw_only=True)
class Shard:
    """This rank's part of one forward pass, for the self-attention of every block.

    Args:
        sequence: The ranks that share the sequence.
        rope_cos: Cosines of this rank's tokens, `[1, L, 1, D / 2]`, float32.
        rope_sin: Sines of this rank's tokens, `[1, L, 1, D / 2]`, float32.
        branch: Guidance branch; each has its own outputs in the cache.
        step: Denoising step, from 0.
        cache: Kept attention outputs of this run; None if it uses no cache.
        timestep_rows: Which of the timesteps each of this rank's tokens has, `[L]`; None if all
            have the same.
    """

    sequence: SequenceGroup
    rope_cos: Tensor
    rope_sin: Tensor
    branch: int
    step: int
    cache: AttentionCache | None
    timestep_rows: Tensor | None = None


class Condition:
    """Text and image tokens that one guidance branch attends to, the same in every step.

    Keys and values of each block are computed on first use and kept for the run.

    Args:
        text_BNC: Embedded prompt.
        image_BNC: Embedded images; None if the model sees none.
    """

    def __init__(self, text_BNC: Tensor, image_BNC: Tensor | None) -> None:
        self._text, self._image = text_BNC, image_BNC
        self._keys_values: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def keys_values(self, block: int, attn: WanAttention) -> list[tuple[Tensor, Tensor]]:
        """Return keys and values of the text, then of the images, each `[B, N, H, D]`."""
        if block not in self._keys_values:
            pairs = [(attn.norm_k(attn.to_k(self._text)), attn.to_v(self._text))]
            if self._image is not None:
                key = attn.norm_added_k(attn.add_k_proj(self._image))
                pairs.append((key, attn.add_v_proj(self._image)))
            self._keys_values[block] = [
                (_split_heads(key, attn), _split_heads(value, attn)) for key, value in pairs
            ]
        return self._keys_values[block]


class SelfAttention:
    """Processor of a block's self-attention; exact for any number of tokens on each rank."""

    def __init__(self, block: int, backend: AttentionBackendName, kernels: Kernels) -> None:
        self._block = block
        self._backend = backend
        self._kernels = kernels

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: Tensor,
        encoder_hidden_states: None,
        attention_mask: None,
        rotary_emb: Shard,
    ) -> Tensor:
        """Return the output `[B, L, C]` of this rank's tokens, computed or from the cache."""
        shard = rotary_emb

        def compute() -> Tensor:
            return self._attend(attn, hidden_states, shard)

        if shard.cache is None:
            return compute()
        return shard.cache.attend(shard.step, shard.branch, self._block, compute)

    def _attend(self, attn: WanAttention, hidden_BLC: Tensor, shard: Shard) -> Tensor:
        qkv_RL3hD = self._kernels.rotate(
            (attn.to_q(hidden_BLC), attn.to_k(hidden_BLC), attn.to_v(hidden_BLC)),
            (attn.norm_q.weight, attn.norm_k.weight),
            # Without the batch dimension: its strides differ between shards of equal length, and
            # fused kernels would be compiled for each of them.
            (shard.rope_cos[0], shard.rope_sin[0]),
            attn.norm_q.eps,
            attn.heads,
            len(shard.sequence.sizes),
        )
        # One exchange for all three, because each collective has a fixed cost.
        qkv_S3hD = shard.sequence.to_heads(qkv_RL3hD)
        query, key, value = qkv_S3hD.unsqueeze(0).unbind(2)
        output = dispatch_attention_fn(query, key, value, backend=self._backend)
        output_LHD = shard.sequence.to_tokens(output[0])
        return _project_out(attn, output_LHD.flatten(1).unsqueeze(0).type_as(hidden_BLC))


class CrossAttention:
    """Processor of a block's cross-attention; local, because every rank holds the condition."""

    def __init__(self, block: int, attend: Attend, kernels: Kernels) -> None:
        self._block = block
        self._attend = attend
        self._kernels = kernels

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Condition,
        attention_mask: None,
        rotary_emb: None,
    ) -> Tensor:
        """Return the output `[B, L, C]` of this rank's tokens."""
        norm = attn.norm_q
        query = self._kernels.rms_norm(attn.to_q(hidden_states), norm.weight, norm.eps)
        query = _split_heads(query, attn)
        output, *others = (
            self._attend(query, key, value)
            for key, value in encoder_hidden_states.keys_values(self._block, attn)
        )
        for other in others:
            output = output + other
        return _project_out(attn, output.flatten(2).type_as(hidden_states))


def install_attention(
    model: WanTransformer3DModel,
    backend: AttentionBackendName,
    kernels: Kernels,
    attend_across: Attend | None = None,
) -> None:
    """Replace the attention of a model's blocks.

    Args:
        model: The transformer.
        backend: Kernel of its self-attention.
        kernels: Its element-wise operations.
        attend_across: Its cross-attention; None for the same kernel.
    """
    attend_across = attend_across or partial(dispatch_attention_fn, backend=backend)
    for index, block in enumerate(model.blocks):
        block.attn1.set_processor(SelfAttention(index, backend, kernels))
        block.attn2.set_processor(CrossAttention(index, attend_across, kernels))


def _split_heads(hidden_BLC: Tensor, attn: WanAttention) -> Tensor:
    heads: Tensor = hidden_BLC.unflatten(2, (attn.heads, -1))
    return heads


def _project_out(attn: WanAttention, hidden_BLC: Tensor) -> Tensor:
    linear, dropout = attn.to_out
    output: Tensor = dropout(linear(hidden_BLC))
    return output
