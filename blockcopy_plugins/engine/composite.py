"""Composite ops: those that torch builds from other ops, and fast paths that fuse several."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType, SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor

from .torch_internals import OpOverload, named_arguments, run_composite

aten = torch.ops.aten


def take_apart(func: OpOverload, args, kwargs):
    """Run a composite op as the ops that it consists of; inference mode does not take it apart.

    Returns:
        Its result, or ``NotImplemented`` if it is not composite.
    """
    fast_path = _FAST_PATHS.get(func)
    if fast_path is None:
        return run_composite(func, args, kwargs)
    given = SimpleNamespace(**named_arguments(func, args, kwargs))
    return NotImplemented if given.mask is not None else fast_path(given)


def _multi_head_attention(given: SimpleNamespace) -> tuple[Tensor, Tensor]:
    """The fast path of ``nn.MultiheadAttention``, as separate ops."""
    q, k, v = _heads(given, (given.query, given.key, given.value), given.num_head)
    if not given.need_weights:
        return _joined(given, F.scaled_dot_product_attention(q, k, v)), torch.empty(0)
    weights = ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(-1)
    out = _joined(given, weights @ v)
    return out, weights.mean(1) if given.average_attn_weights else weights


def _encoder_layer(given: SimpleNamespace) -> Tensor:
    """The fast path of ``nn.TransformerEncoderLayer``, as separate ops."""

    def norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.layer_norm(x, (given.embed_dim,), weight, bias, given.eps)

    def attend(x: Tensor) -> Tensor:
        heads = _heads(given, (x, x, x), given.num_heads)
        return _joined(given, F.scaled_dot_product_attention(*heads))

    def feed_forward(x: Tensor) -> Tensor:
        hidden = F.linear(x, given.ffn_weight_1, given.ffn_bias_1)
        hidden = F.gelu(hidden) if given.use_gelu else F.relu(hidden)
        return F.linear(hidden, given.ffn_weight_2, given.ffn_bias_2)

    src = given.src
    first = (given.norm_weight_1, given.norm_bias_1)
    second = (given.norm_weight_2, given.norm_bias_2)
    if given.norm_first:
        src = src + attend(norm(src, *first))
        return src + feed_forward(norm(src, *second))
    src = norm(src + attend(src), *first)
    return norm(src + feed_forward(src), *second)


def _heads(given: SimpleNamespace, inputs: Sequence[Tensor], heads: int) -> list[Tensor]:
    """Queries, keys and values ``(N, heads, L, C)`` of inputs ``(N, L, heads * C)``."""
    parts = zip(inputs, given.qkv_weight.chunk(3), given.qkv_bias.chunk(3), strict=True)
    return [
        F.linear(x, weight, bias).unflatten(-1, (heads, -1)).transpose(1, 2)
        for x, weight, bias in parts
    ]


def _joined(given: SimpleNamespace, out: Tensor) -> Tensor:
    """The projection of all heads' results ``(N, heads, L, C)`` together."""
    return F.linear(out.transpose(1, 2).flatten(2), given.proj_weight, given.proj_bias)


_FAST_PATHS = MappingProxyType(
    {
        aten._native_multi_head_attention.default: _multi_head_attention,
        aten._transformer_encoder_layer_fwd.default: _encoder_layer,
    }
)
