"""A network on random grids, beside the masked reference and the dense network."""

from __future__ import annotations

import torch

import blockcopy_plugins as bc
from blockcopy_plugins.engine.oracle.masked_reference import MaskedReference

_RATES = (2.0, 0.3, 0.0, 0.5, 0.1)


def run_on_random_grids(
    net, images, size, block, pack=True, mode=torch.no_grad, count=5, **options
):
    """Convert a network and run it on frames of noise.

    Args:
        net: The network.
        images: Of a frame.
        size: ``(H, W)`` of a frame, px.
        block: Side of a block, px.
        pack: Whether whole frames are packed.
        mode: In which the frames run.
        count: Of frames; of the first all blocks run.
        options: Of the conversion.

    Returns:
        Outputs, those of the masked reference, and of the first frame that of the dense network.
    """
    shape = (images, -(-size[0] // block), -(-size[1] // block))
    grids = [torch.rand(shape) < rate for rate in (_RATES * 3)[:count]]
    if count == len(_RATES):
        grids[3][-1] = False  # An image of which nothing runs, beside others.
    frames = [torch.randn(images, 3, *size) for _ in grids]
    reference = MaskedReference(net, block)
    wanted = [reference(grid, frame) for grid, frame in zip(grids, frames, strict=True)]
    with torch.no_grad():
        dense = net(frames[0])
    left = list(grids)
    config = bc.BlockCopyConfig(
        block_size=block, policy=lambda f, c: left.pop(0), pack_whole_frames=pack, **options
    )
    bc.blockcopy_(net, config)
    found = []
    for frame in frames:
        with mode():
            found.append(net(frame))
    return found, wanted, dense
