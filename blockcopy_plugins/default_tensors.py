"""The dtype and device that torch gives to new tensors when none is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def neutral_defaults() -> Iterator[Callable | None]:
    """Inside, new tensors are float32 and on the CPU, whatever the program around has set.

    Tables, scores and policies of the package are made for these defaults, whatever the model uses.

    Yields:
        A function that calls another one under the program's own defaults, for code that belongs
        to the program: ``outside(model.forward, x)``; None if the defaults are the same.
    """
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    if dtype == torch.float32 and device.type == "cpu":
        yield None
        return

    def outside(function: Callable, *args: Any, **kwargs: Any) -> Any:
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            with device:
                return function(*args, **kwargs)
        finally:
            torch.set_default_dtype(before)

    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"):
            yield outside
    finally:
        torch.set_default_dtype(dtype)
