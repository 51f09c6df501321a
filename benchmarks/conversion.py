"""How the benchmarks convert a model, so that all of them convert it alike."""

from __future__ import annotations

import copy
from dataclasses import fields
from typing import Any

from torch import nn

import blockcopy_plugins as bc


def sparse_copy(
    dense: nn.Module, block_size: int, policy: Any, cuda_graphs: bool | None = None
) -> nn.Module:
    """A converted copy of a model that shares its parameters; the model itself gets no hook.

    Args:
        dense: The model.
        block_size: In pixels.
        policy: For :class:`blockcopy_plugins.BlockCopyConfig`.
        cuda_graphs: The option of that name, where this version of the package has it.

    Returns:
        The copy.
    """
    shared = {id(t): t for t in (*dense.parameters(), *dense.buffers())}
    options = {}
    if cuda_graphs is not None and has_option("cuda_graphs"):
        options["cuda_graphs"] = cuda_graphs
    config = bc.BlockCopyConfig(block_size=block_size, policy=policy, **options)
    return bc.blockcopy_(copy.deepcopy(dense, shared), config)


def has_option(name: str) -> bool:
    """Whether :class:`blockcopy_plugins.BlockCopyConfig` has an option of this name."""
    return any(field.name == name for field in fields(bc.BlockCopyConfig))
