"""Converts a model in place, and restores it: completely, or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..config import BlockCopyConfig
from ..errors import ConfigError
from ..policy import MotionField, build_policy
from .adapter import ModelAdapter, whole_map_modules
from .entry import enter
from .execution.converted_model import ConvertedModel
from .module_hooks import (
    DenseOutputs,
    EnterModule,
    LeaveModule,
    ModuleHook,
    ReadOnlyInputs,
    WholeMapInputs,
    WholeMapResult,
)
from .module_shortcuts import InstanceNormShortcut, ModuleShortcut, shortcut_for
from .report import Report
from .session import Session
from .strategies import OPS
from .tensor.block_tensor import BlockTensor
from .tensor.dense_map import plain
from .torch_internals import forward_hooks

_ATTRIBUTE = "_blockcopy"


@dataclass
class _Forward:
    """Replaces the model's forward. A class, so that a deep copy has one of its own."""

    session: Session | None  # None once the model was restored
    original: Any

    def __call__(self, *args, **kwargs):
        if self.session is None:
            return self.original(*args, **kwargs)
        return enter(self.session, self.original, args, kwargs)

    @property
    def __code__(self):
        """The signature of the model's own forward, by which torch.export names its inputs."""
        return self.original.__code__


class Conversion:
    """Everything that the conversion has attached to a model.

    Args:
        session: The model's session.

    Attributes:
        session: As given.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self._removers: list = []
        self._forward: _Forward | None = None

    def attach(self) -> None:
        """Attach the model's forward and the hooks of its submodules, all or none."""
        try:
            self._attach()
        except BaseException:
            self._take_away()
            raise

    def _attach(self) -> None:
        converted = self.session.converted
        model, adapter, active = converted.model, converted.adapter, converted.active
        has_kernels = converted.convolutions.cpu is not None
        for path, module in converted.modules:
            shortcut = None
            if path:
                shortcut = shortcut_for(active, path, module, has_kernels, adapter.conv_wrappers)
            if shortcut is not None:
                module.__dict__["forward"] = shortcut
            # Where stateless modules begin and end does not matter, and they are the majority.
            elif path and type(module) not in OPS.stateless_modules:
                self._hook(module.register_forward_pre_hook, EnterModule(active, path))
                self._hook(module.register_forward_hook, LeaveModule(active, path))
        self._removers.extend(adapter.attach(model))
        for module in adapter.read_only_inputs(model):
            hook = ReadOnlyInputs(active, not adapter.reads_channels_last(module))
            self._hook(module.register_forward_pre_hook, hook, with_kwargs=True)
        # What runs before the hook that leaves the module counts as part of the module.
        for module, reason in whole_map_modules(model, adapter):
            if isinstance(module.__dict__.get("forward"), InstanceNormShortcut):
                continue
            inputs = WholeMapInputs(active, reason)
            self._hook(module.register_forward_pre_hook, inputs, with_kwargs=True)
            self._hook(module.register_forward_hook, WholeMapResult(active), prepend=True)
        ends = set(adapter.dense_outputs(model))
        for path, module in converted.modules:
            if module in ends:
                hook = DenseOutputs(active, path, adapter.outputs_are_read(module))
                self._hook(module.register_forward_hook, hook, prepend=True)
        model.__dict__[_ATTRIBUTE] = self
        self._forward = model.__dict__["forward"] = _Forward(self.session, model.forward)

    def _hook(self, register, hook: ModuleHook, **options: bool) -> None:
        self._removers.append(register(hook, **options))

    def detach(self) -> None:
        """Remove everything that :meth:`attach` attached."""
        self.session.release()
        self._take_away()
        model, forward = self.session.model, self._forward
        # Code that has wrapped it since then goes on with the model's own forward.
        forward.session = None
        if model.__dict__.get("forward") is forward:
            del model.__dict__["forward"]
            if getattr(forward.original, "__func__", None) is not type(model).forward:
                # The instance had a forward of its own before.
                model.__dict__["forward"] = forward.original
        del model.__dict__[_ATTRIBUTE]

    def _take_away(self) -> None:
        """Remove the hooks of the submodules, and their forwards."""
        for remover in self._removers:
            remover.remove()
        self._removers.clear()
        for _, module in self.session.converted.modules:
            if isinstance(module.__dict__.get("forward"), ModuleShortcut):
                del module.__dict__["forward"]


def convert_(
    model: nn.Module, config: BlockCopyConfig | None = None, adapter: ModelAdapter | None = None
) -> nn.Module:
    """Make a model run block-sparsely, in place; see :func:`blockcopy_plugins.blockcopy_`."""
    config = BlockCopyConfig() if config is None else config
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model is a {type(model).__name__}, expected a torch.nn.Module.")
    if not isinstance(config, BlockCopyConfig):
        raise ConfigError(
            f"config is {config!r}, expected a BlockCopyConfig: "
            "blockcopy_(model, BlockCopyConfig(block_size=128))."
        )
    for name, module in nn.Module.named_modules(model):
        inside = any(isinstance(hook, EnterModule) for hook in forward_hooks(module)[0].values())
        inside = inside or isinstance(module.__dict__.get("forward"), ModuleShortcut)
        if _ATTRIBUTE in module.__dict__ or inside:
            raise ConfigError(
                f"module {name or '(root)'!r} is converted already"
                + (", as part of a larger model. " if inside else ". ")
                + "Call restore_ on what was converted before converting again."
            )
        if isinstance(module, torch.jit.ScriptModule):
            raise ConfigError(
                f"module {name or '(root)'!r} is a compiled {type(module).__name__}, expected "
                "ordinary modules: TorchScript hides its layers. Convert the model before "
                "torch.jit.script or torch.jit.trace."
            )
        # Says that it is in training mode, and cannot be told otherwise.
        is_graph = isinstance(module, torch.fx.GraphModule)
        if is_graph and module.training and "eval" in module.__dict__:
            raise ConfigError(
                f"module {name or '(root)'!r} is a {type(module).__name__} of torch.export, "
                "expected ordinary modules: its sizes and its mode are fixed. Convert the model "
                "before it is exported."
            )
    policy = build_policy(config.policy)
    converted = ConvertedModel.of(model, config, adapter or ModelAdapter())
    Conversion(Session(converted, policy)).attach()
    return model


def _conversion(model: nn.Module) -> Conversion:
    found = model.__dict__.get(_ATTRIBUTE)
    if found is None:
        inside = [n for n, m in nn.Module.named_modules(model) if _ATTRIBUTE in m.__dict__]
        hint = (
            f"its submodule {inside[0]!r} is; ask for that one"
            if inside
            else "call blockcopy_ first"
        )
        raise ConfigError(f"{type(model).__name__} is not converted: {hint}.")
    return found


def handle(model: nn.Module) -> Session:
    """The session of a converted module.

    Raises:
        ConfigError: If the module is not converted.
    """
    return _conversion(model).session


def runs_dense(model: nn.Module) -> bool:
    """Whether this thread's calls of a model are those of the user's own, as in ``bc.dense``.

    Args:
        model: A model, converted or not; one that is not has no such calls.
    """
    found = model.__dict__.get(_ATTRIBUTE)
    return found is not None and found.session.converted.dense.get()


@contextmanager
def detached(model: nn.Module) -> Iterator[None]:
    """A context in which the modules of a converted model may be replaced.

    Its streams are forgotten; policy, options and figures stay.

    Args:
        model: The model.

    Raises:
        ConfigError: If it is not converted.
    """
    conversion = _conversion(model)
    conversion.detach()
    try:
        yield
    finally:
        conversion.session.converted.read_modules()
        conversion.session.reset()
        conversion.attach()


def restore_(model: nn.Module) -> nn.Module:
    """Undo the conversion of a module; see :func:`blockcopy_plugins.restore_`."""
    _conversion(model).detach()
    return model


def report(model: nn.Module) -> Report:
    """Figures of what a module has run; see :func:`blockcopy_plugins.report`."""
    return handle(model).report()


def motion(model: nn.Module, fields: Sequence[MotionField | None]):
    """How far the images of a batch have moved; see :func:`blockcopy_plugins.motion`."""
    return handle(model).moved(fields)


def to_dense(x: Tensor) -> Tensor:
    """A dense ``(N, C, H, W)`` copy of a BlockTensor; any other tensor unchanged.

    For model code that passes a feature map to code that only takes ordinary tensors.
    """
    return x.frame.dense(x, "to_dense", copy=True) if isinstance(x, BlockTensor) else plain(x)
