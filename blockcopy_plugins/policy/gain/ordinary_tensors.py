"""Tensors that outlive a call are ordinary ones, whatever mode the caller is in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def ordinary_tensors() -> Iterator[None]:
    """Make tensors that later calls, in other modes, may use: not those of inference mode."""
    with torch.inference_mode(False), torch.no_grad():
        yield
