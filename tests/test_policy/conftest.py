from __future__ import annotations

import pytest
import torch

from blockcopy_plugins.policy import Detections, PolicyContext


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_context():
    """Return a function that makes the context the engine would make for a frame."""

    def make(frame, block_size=64, streams=None, first=False, index=1, last_grid=None):
        images, _, height, width = frame.shape
        shape = (images, -(-height // block_size), -(-width // block_size))
        if last_grid is None:
            last_grid = torch.zeros(shape, dtype=torch.bool)
        return PolicyContext(
            streams=tuple(range(images)) if streams is None else tuple(streams),
            grid_shape=shape,
            block_size=block_size,
            first=torch.as_tensor(first).expand(images).clone(),
            frame_index=(index,) * images if isinstance(index, int) else tuple(index),
            last_grid=last_grid,
        )

    return make


@pytest.fixture
def detections():
    """Return a function that makes detections of a list of (x1, y1, x2, y2, score, label)."""

    def make(rows, size, masks=None):
        table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
        return Detections(table[:, :4], table[:, 4], table[:, 5].long(), masks, size)

    return make


@pytest.fixture
def drive(make_context):
    """Return a function that runs a policy on a list of frames as the engine does."""

    def run(policy, frames, outputs, block_size=64, streams=None, seen=()):
        grids, scalars = [], []
        seen, last = set(seen), {}
        for index, frame in enumerate(frames):
            ids = tuple(range(frame.shape[0])) if streams is None else tuple(streams[index])
            context = make_context(frame, block_size, ids, index=index)
            previous = torch.stack(
                [
                    last.get(stream, torch.zeros(context.grid_shape[1:], dtype=bool))
                    for stream in ids
                ]
            )
            first = torch.tensor([stream not in seen for stream in ids])
            context = make_context(frame, block_size, ids, first, index, previous)
            grid = policy.select(frame, context) | first[:, None, None]
            given = outputs(index, ids) if callable(outputs) else outputs
            scalars.append(policy.feedback(frame, grid, given, context))
            seen.update(ids)
            last.update(zip(ids, grid, strict=True))
            grids.append(grid)
        return grids, scalars

    return run
