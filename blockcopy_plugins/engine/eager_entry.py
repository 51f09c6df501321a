"""A call of a converted model in a program that has changed torch's global settings.

This deals with other default dtypes and devices, torch.jit.trace, parts that are compiled by
torch.compile, and torch's own counter of operations.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from ..default_tensors import neutral_defaults
from ..errors import ConfigError
from .macs import MacCounter
from .session import Session
from .torch_internals import any_is_compiled, any_mode, dispatch_modes, is_tracing, no_modes


def enter_eagerly(
    session: Session, original: Callable, args: tuple, kwargs: dict[str, Any], compiled: bool
) -> Any:
    """See :func:`~.entry.enter`; ``compiled`` if torch.compile was asked to compile the call."""
    if is_tracing() and not session.is_paused:
        raise tracing_error(
            session, "torch.jit.trace, which counters of operations and exporters use"
        )
    inner = _is_compiled(session, original)
    if compiled or inner:
        warnings.warn(
            "torch.compile is not applied to a model that runs block-sparsely: its frames run as "
            "they do without. Remove torch.compile (in MMEngine: compile=True), or compile another "
            "copy of the model to run it dense.",
            stacklevel=2,
        )
    elif not any_mode() and torch.get_default_dtype() == torch.float32:
        return session.run(original, args, kwargs)
    stance = getattr(torch.compiler, "set_stance", None) if inner else None
    with stance("force_eager") if stance is not None else nullcontext():
        with neutral_defaults() as outside, _counted_by_torch():
            run = original if outside is None else functools.partial(outside, original)
            return session.run(run, args, kwargs)


def _is_compiled(session: Session, original: Callable) -> bool:
    """Whether some part of the model is compiled by torch.compile."""
    if hasattr(original, "_torchdynamo_orig_callable"):
        return True
    return session.converted.ask(any_is_compiled)


@contextmanager
def _counted_by_torch() -> Iterator[None]:
    """Let torch's FlopCounterMode count what really runs.

    On its own, it counts an op on blocks by its logical size, and does not count kernels that it
    does not know.
    """
    counters = [mode for mode in dispatch_modes() if type(mode).__name__ == "_FlopCounterMode"]
    if not counters:
        yield
        return
    with no_modes(), MacCounter() as counted:
        yield
    for mode in counters:
        for module in set(mode.counter.mod_tracker.parents):
            mode.counter.flop_counts[module][torch.ops.aten.convolution] += 2 * counted.macs


def tracing_error(session: Session, by: str) -> ConfigError:
    """The error message for tracing a converted model."""
    return ConfigError(
        f"{type(session.model).__name__} runs block-sparsely and is being traced ({by}). Which "
        "blocks run differs from frame to frame: trace it inside 'with bc.dense(model):' or after "
        "restore_(model); bc.report(model) counts what runs on blocks."
    )
