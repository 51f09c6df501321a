"""The entry into a converted model, which torch.compile and torch.export may look at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .eager_entry import enter_eagerly, tracing_error
from .session import Session
from .torch_internals import is_exporting


def enter(session: Session, original: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Run one call of a converted model, whatever torch settings the program has changed.

    torch.compile does not compile the call, and one warning says so: the blocks that run differ
    from frame to frame, and the kernels that run them are compiled already.

    Returns:
        What the model's own forward, ``original``, returns, with dense tensors.
    """
    if is_exporting():
        if session.is_paused:
            return original(*args, **kwargs)
        raise tracing_error(session, "torch.export")
    # While torch.compile traces this code, the answer is a constant.
    if torch.compiler.is_compiling():
        from .uncompiled import enter_uncompiled

        return enter_uncompiled(session, original, args, kwargs, True)
    return enter_eagerly(session, original, args, kwargs, False)
