"""Whether the sparse outputs are right: without that, no time means anything."""

from __future__ import annotations

from typing import Any

import torch

import blockcopy_plugins as bc
from blockcopy_plugins.engine.oracle.masked_reference import MaskedReference

from .deviation import deviation
from .grids import draw_grid
from .precision import tf32
from .region import build_region

# Of the largest value of an output; bfloat16 has 8 bits, and fifty layers add their errors up.
TOLERANCE = {"float32": 1e-4, "float16": 5e-2, "bfloat16": 0.2}


def check(model: str, block_size: int, device: str, seed: int = 0) -> dict[str, Any]:
    """Compare with the dense model and the masked reference, in float32 at a small size.

    Args:
        model: Name of the model.
        block_size: In pixels; at most 64 are used.
        device: ``'cpu'`` or ``'cuda'``.
        seed: Of weights, frames and grids.

    Returns:
        Largest deviation over all outputs from each of the two.

    Raises:
        SystemExit: If it is more than float rounding.
    """
    block = min(block_size, 64)
    height, width = 3 * block, 4 * block
    region = build_region(model, torch.float32, seed, device)
    draw = torch.Generator().manual_seed(seed)
    frames = [torch.randn(1, 3, height, width, generator=draw).to(device) for _ in range(3)]
    grids = [draw_grid(count, (3, 4), draw).to(device) for count in (12, 5, 2)]
    at_work = iter(grids)
    with torch.inference_mode(), tf32(False):
        dense = region(frames[0])
        reference = MaskedReference(region, block)
        wanted = [reference(grid, frame) for grid, frame in zip(grids, frames, strict=True)]
        config = bc.BlockCopyConfig(block_size=block, policy=lambda frame, context: next(at_work))
        bc.blockcopy_(region, config)
        got = [region(frame) for frame in frames]
    found = {
        "model": model,
        "device": device,
        "size": [height, width],
        "block_size": block,
        "against_dense": deviation(got[0], dense),
        "against_reference": max(deviation(a, b) for a, b in zip(got, wanted, strict=True)),
    }
    if not max(found["against_dense"], found["against_reference"]) < TOLERANCE["float32"]:
        raise SystemExit(f"the sparse outputs differ from the reference: {found}")
    return found
