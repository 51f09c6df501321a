"""Figures of speed-up and sparse efficiency, from the times of frames."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

PEERS = ("torch.compile", "onnxruntime", "openvino", "openvino-int8")
LAYOUTS = ("channels_last", "contiguous")


@dataclass(frozen=True)
class Setting:
    """What all figures of one alternated loop have in common.

    Attributes:
        model: Name of the model.
        size: ``(H, W)`` of the frames in pixels.
        dtype: Of weights and frames.
        device: ``'cpu'`` or ``'cuda'``.
        threads: Of torch and of the other engines.
    """

    model: str
    size: tuple[int, int]
    dtype: str
    device: str
    threads: int

    def __str__(self) -> str:
        height, width = self.size
        return (
            f"{self.model}, {height}x{width}, {self.dtype}, {self.device}, {self.threads} threads"
        )


def efficiency_row(
    *,
    executed: int,
    blocks: int,
    dense: Sequence[float],
    sparse: Sequence[float],
    policy: Sequence[float],
    fastest: tuple[str, float] | None = None,
    int8_ms: float | None = None,
) -> dict:
    """Figures of one rate, from its times.

    Args:
        executed: Executed blocks of a frame.
        blocks: All blocks of a frame.
        dense: Milliseconds of each dense frame of torch.
        sparse: Milliseconds of each sparse frame without the policy.
        policy: Milliseconds of the policy in each of them. Their mean counts, not their median:
            most frames have no update in them.
        fastest: Name and milliseconds of the fastest dense engine, by default torch.
        int8_ms: Milliseconds of a dense frame in 8 bits, where an engine did that.

    Returns:
        ``rate``, ``dense_ms``, ``model_ms``, ``policy_ms``, ``sparse_ms`` (the sum of the two
        before), ``speedup``, ``efficiency``, ``policy_share`` (of the dense time), ``fastest`` and
        ``speedup_over_fastest``, ``speedup_over_int8`` (None where not measured), and the ``times``
        themselves.
    """
    rate = executed / blocks
    dense_ms, model_ms = statistics.median(dense), statistics.median(sparse)
    policy_ms = statistics.fmean(policy)
    sparse_ms = model_ms + policy_ms
    name, fastest_ms = ("torch", dense_ms) if fastest is None else fastest
    return {
        "rate": rate,
        "executed": executed,
        "blocks": blocks,
        "dense_ms": dense_ms,
        "model_ms": model_ms,
        "policy_ms": policy_ms,
        "policy_share": policy_ms / dense_ms,
        "sparse_ms": sparse_ms,
        "speedup": dense_ms / sparse_ms,
        "efficiency": dense_ms / sparse_ms * rate,
        "fastest": {"engine": name, "ms": fastest_ms},
        "speedup_over_fastest": fastest_ms / sparse_ms,
        "speedup_over_int8": int8_ms and int8_ms / sparse_ms,
        "times": {"dense": list(dense), "sparse": list(sparse), "policy": list(policy)},
    }


def fastest_engine(torch_ms: float, peers: Sequence[dict]) -> tuple[str, float]:
    """Name and milliseconds of the fastest dense engine, of those that give torch's outputs.

    Args:
        torch_ms: Of torch.
        peers: Figures of the other engines; those without ``ms`` were not there, those that are not
            ``exact`` compute in lower precision than asked for.
    """
    engines = [("torch", torch_ms)]
    engines += [
        (peer["engine"], peer["ms"]) for peer in peers if peer.get("ms") and peer.get("exact", True)
    ]
    return min(engines, key=lambda engine: engine[1])


def setting_of(row: dict) -> Setting:
    """That of a row of the results."""
    keys = ("model", "dtype", "device", "threads")
    return Setting(size=tuple(row["size"]), **{key: row[key] for key in keys})
