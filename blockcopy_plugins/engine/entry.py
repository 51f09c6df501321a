"""The way from the program around into a converted model.

What the program has switched on for all of torch is met here: other default dtypes and devices,
torch.compile, and torch's own counter of operations.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

from ..default_tensors import neutral_defaults
from ..errors import ConfigError
from .macs import MacCounter
from .torch_internals import dispatch_modes, is_compiled, is_exporting, no_modes

if TYPE_CHECKING:
    from .session import Session


def enter(session: Session, original: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Run one call of a converted model, whatever the program around has switched on.

    torch.compile leaves the call as it is, and a warning says so once: which blocks run differs
    from frame to frame, and the kernels that run them are compiled already.

    Args:
        session: Of the model.
        original: The model's own forward.
        args: Positional arguments of the call.
        kwargs: Keyword arguments of the call.

    Returns:
        What the model returns, with dense tensors.
    """
    if is_exporting():
        if session.is_paused:
            return original(*args, **kwargs)
        raise _traced(session, "torch.export")
    # While torch.compile looks at this code the answer is a constant of what it compiles.
    if torch.compiler.is_compiling():
        from .uncompiled import enter_uncompiled

        return enter_uncompiled(session, original, args, kwargs, True)
    return enter_eagerly(session, original, args, kwargs, False)


def enter_eagerly(
    session: Session, original: Callable, args: tuple, kwargs: dict[str, Any], compiled: bool
) -> Any:
    """See :func:`enter`.

    Args:
        session: Of the model.
        original: The model's own forward.
        args: Positional arguments of the call.
        kwargs: Keyword arguments of the call.
        compiled: Whether torch.compile was to compile the call.
    """
    if torch.jit.is_tracing() and not session.is_paused:
        raise _traced(session, "torch.jit.trace, which counters of operations and exporters use")
    inner = _is_compiled(session, original)
    if compiled or inner:
        warnings.warn(
            "torch.compile is not applied to a model that runs block-sparsely: its frames run as "
            "they do without. Leave torch.compile (of MMEngine: compile=True) away, or compile "
            "another copy of the model to run it dense.",
            stacklevel=2,
        )
    stance = getattr(torch.compiler, "set_stance", None) if inner else None
    with stance("force_eager") if stance is not None else nullcontext():
        with neutral_defaults() as outside, _counted_by_torch():
            run = original if outside is None else functools.partial(outside, original)
            return session.run(run, args, kwargs)


def _traced(session: Session, by: str) -> ConfigError:
    return ConfigError(
        f"{type(session.model).__name__} runs block-sparsely and is being traced ({by}). Which "
        "blocks run differs from frame to frame: trace it inside 'with bc.dense(model):' or after "
        "restore_(model); bc.report(model) counts what runs on blocks."
    )


def _is_compiled(session: Session, original: Callable) -> bool:
    """Whether some part of the model was given to torch.compile."""
    if hasattr(original, "_torchdynamo_orig_callable"):
        return True
    return any(is_compiled(module) for _, module in session.converted.modules)


@contextmanager
def _counted_by_torch() -> Iterator[None]:
    """Give torch's FlopCounterMode what really runs.

    By itself it counts an op on blocks by its logical size, and kernels that it does not know as
    nothing.
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
