"""Finds the weights of a model among the entries and prefixes that other programs add."""

from __future__ import annotations

import contextlib
import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..addresses import masked
from ..damaged_files import DAMAGED_FILE_ERRORS, instead_of_a_checkpoint
from ..errors import BlockCopyError, ConfigError

# Names that trainers give the entry with the parameters, averaged ones last: 'state_dict' is the
# one that the frameworks themselves load.
_ENTRIES = (
    "state_dict",
    "model",
    "model_state_dict",
    "model_state",
    "net",
    "network",
    "weights",
    "module",
    "ema_state_dict",
    "state_dict_ema",
    "model_ema",
    "ema",
)
# Segments of names that wrappers insert: torch.compile, DataParallel and the like.
_WRAPPERS = ("_orig_mod", "module")
# Parts of models that are used only in training.
_UNUSED = ("auxiliary_head.",)


@dataclass(frozen=True)
class FoundWeights:
    """Weights under the names of the model.

    Attributes:
        state: Tensors by name.
        entry: The file's entry that they are in, '' if they are the file itself.
        prefix: The prefix of each name.
        unfit: Names and shapes of the model's weights that are missing or have another shape.
        unused: Names of missing weights that no test run needs.
    """

    state: Mapping[str, Any]
    entry: str
    prefix: str
    unfit: tuple[str, ...]
    unused: tuple[str, ...]


def find_weights(
    content: Any, own: Mapping[str, tuple[int, ...]], path: str | os.PathLike[str]
) -> FoundWeights:
    """Find the weights of a model in a loaded checkpoint.

    Args:
        content: The file's content: a state dict, or a dict with one, under whatever names
            wrappers of models made (``module.``, ``_orig_mod.``, ``model.``, ...).
        own: Shapes of the model's parameters and buffers by name.
        path: The file or address, for messages.

    Returns:
            The best fit; a complete one if ``unfit`` is empty.

    Raises:
        ConfigError: If there is no dict of tensors in it, or a weight of the model holds NaN.
    """
    best: FoundWeights | None = None
    for entry, state in _candidates(content):
        found = _fit(entry, state, own)
        if best is None or len(found.unfit) < len(best.unfit):
            best = found
        if not best.unfit:
            break
    if best is None:
        kind = type(content).__name__
        names = ""
        if isinstance(content, Mapping) and content:
            names = f" with the entries {sorted(map(str, content))[:8]}"
        raise ConfigError(
            f"the checkpoint {masked(os.fspath(path))!r} is a {kind}{names}, and contains no "
            "tensors by name. Give the checkpoint that belongs to the config."
        )
    # Only NaN differs from itself, in tensors as in arrays.
    broken = [name for name in own if name in best.state and _holds_nan(best.state[name])]
    if broken:
        raise ConfigError(
            f"the checkpoint {masked(os.fspath(path))!r} holds NaN in {len(broken)} of the model's "
            f"{len(own)} weights, first in {broken[0]}: a training that diverged, or a damaged "
            "file. Give an earlier checkpoint, or another copy."
        )
    return best


def _holds_nan(value: Any) -> bool:
    return bool((value != value).any())


@contextlib.contextmanager
def readable_weights(path: str | os.PathLike[str]) -> Iterator[None]:
    """Name the file if loading it fails, whatever the loader raises.

    Args:
        path: The file or address.

    Raises:
        ConfigError: If it is damaged, or not a checkpoint.
    """
    try:
        yield
    except BlockCopyError:
        raise
    except DAMAGED_FILE_ERRORS as error:
        if isinstance(error, OSError) and "://" in str(path):
            raise  # errors of the network
        text = str(error).strip().splitlines()[:1] or [""]
        raise ConfigError(
            f"the checkpoint {masked(os.fspath(path))!r} cannot be loaded "
            f"({type(error).__name__}: {masked(text[0])[:200]}). {instead_of_a_checkpoint(path)}"
        ) from error


def _candidates(content: Any, depth: int = 0) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if not isinstance(content, Mapping):
        return
    for name in _ENTRIES:
        if depth < 3 and isinstance(content.get(name), Mapping):
            for inner, state in _candidates(content[name], depth + 1):
                yield (f"{name}.{inner}" if inner else name), state
    if any(isinstance(key, str) and hasattr(value, "shape") for key, value in content.items()):
        yield "", content


def _fit(entry: str, saved: Mapping[str, Any], own: Mapping[str, tuple[int, ...]]) -> FoundWeights:
    """The best of three readings: the names as they are, without wrappers, or without a prefix."""
    tensors = {
        name: value
        for name, value in saved.items()
        if isinstance(name, str) and hasattr(value, "shape")
    }
    bare = {_without_wrappers(name): value for name, value in tensors.items()}
    prefix = _prefix(bare, own)
    cut = {name.removeprefix(prefix): value for name, value in bare.items()}
    tries = [(tensors, ""), (bare, ""), (cut, prefix)]
    state, taken = max(tries, key=lambda one: sum(_fits(one[0], *item) for item in own.items()))
    unfit, unused = [], []
    for name, shape in own.items():
        if _fits(state, name, shape) or name.endswith("num_batches_tracked"):
            continue
        if name.startswith(_UNUSED) and name not in state:
            unused.append(name)
            continue
        found = tuple(state[name].shape) if name in state else "none"
        unfit.append(f"{name} {tuple(shape)} (found {found})")
    kept: OrderedDict[str, Any] = OrderedDict(state)
    if state is tensors and hasattr(saved, "_metadata"):
        kept._metadata = saved._metadata  # versions of modules, by the same names
    return FoundWeights(kept, entry, taken, tuple(unfit), tuple(unused))


def _fits(state: Mapping[str, Any], name: str, shape: tuple[int, ...]) -> bool:
    return name in state and tuple(state[name].shape) == tuple(shape)


def _without_wrappers(name: str) -> str:
    parts = name.split(".")
    return ".".join([part for part in parts[:-1] if part not in _WRAPPERS] + parts[-1:])


def _prefix(saved: Mapping[str, Any], own: Mapping[str, tuple[int, ...]]) -> str:
    """The prefix of the model's names, found by the longest of them, which are rarely ambiguous."""
    for name in sorted(own, key=len, reverse=True)[:5]:
        found = [key[: -len(name)] for key in saved if key.endswith(f".{name}")]
        if len(found) == 1:
            return found[0]
    return ""
