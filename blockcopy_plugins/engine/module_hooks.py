"""Hooks on the modules of a converted model.

They are classes rather than closures, so that a deep copy of a converted model has hooks of its
own.
"""

from __future__ import annotations

from dataclasses import dataclass

from .frame.active_frame import ActiveFrame
from .frame.dense_results import dense_results
from .tensor.block_tensor import BlockTensor
from .tensor.dense_map import plain
from .torch_internals import forward_hooks, has_global_forward_hooks, tree_map

_PACKAGE = f"{__name__.partition('.')[0]}."


@dataclass
class ModuleHook:
    """A hook of this package.

    Attributes:
        active: The frame that the model is running.
    """

    active: ActiveFrame


@dataclass
class EnterModule(ModuleHook):
    """Notes in the frame that a module's forward begins."""

    path: str

    def __call__(self, module, args) -> None:
        """See ``register_forward_pre_hook``."""
        frame = self.active.frame
        if frame is not None:
            frame.enter(self.path)


@dataclass
class LeaveModule(ModuleHook):
    """Notes in the frame that a module's forward has ended."""

    path: str

    def __call__(self, module, args, output) -> None:
        """See ``register_forward_hook``."""
        frame = self.active.frame
        if frame is not None:
            frame.leave(self.path)


@dataclass
class ReadOnlyInputs(ModuleHook):
    """Gives a module dense maps that it neither changes nor keeps.

    Attributes:
        contiguous: Pass contiguous maps: compiled ops (mmcv's RoIAlign) ignore strides.
    """

    contiguous: bool

    def __call__(self, module, args, kwargs):
        """See ``register_forward_pre_hook``."""
        frame = self.active.frame
        if frame is None:
            return None

        def densify(value):
            if isinstance(value, BlockTensor):
                return frame.dense_to_read(value, "input", self.contiguous)
            return plain(value)

        return tree_map(densify, (args, kwargs))


@dataclass
class WholeMapInputs(ModuleHook):
    """Gives a module whole maps.

    Attributes:
        reason: Why it does not run on blocks.
    """

    reason: str

    def __call__(self, module, args, kwargs):
        """See ``register_forward_pre_hook``."""
        frame = self.active.frame
        if frame is None:
            return None
        inputs, given = frame.make_whole((args, kwargs), type(module).__name__, self.reason)
        frame.whole_map_inputs.append(given)
        return inputs


@dataclass
class WholeMapResult(ModuleHook):
    """Cuts the map that such a module returns into blocks again."""

    def __call__(self, module, args, output):
        """See ``register_forward_hook``."""
        frame = self.active.frame
        if frame is None:
            return None
        given = frame.whole_map_inputs.pop()
        if not given:
            return None
        if isinstance(output, (tuple, list)):
            return type(output)([frame.pack_again(output[0], given[0]), *output[1:]])
        return frame.pack_again(output, given[0])


@dataclass
class DenseOutputs(ModuleHook):
    """Turns a module's results into dense tensors.

    Attributes:
        path: Of the module.
        to_read: The receiver neither writes to them nor keeps them.
    """

    path: str
    to_read: bool = False

    def __call__(self, module, args, output):
        """See ``register_forward_hook``."""
        if self.to_read and self._is_unwatched(module):
            return dense_results(output, to_read=True)
        output = dense_results(output)
        self.active.note_exit(self.path, output)
        return output

    @staticmethod
    def _is_unwatched(module) -> bool:
        """Whether no other hook, which might keep the results, sees them."""
        hooks = forward_hooks(module)[1].values()
        own = (getattr(hook, "__module__", None) or "" for hook in hooks)
        return not has_global_forward_hooks() and all(n.startswith(_PACKAGE) for n in own)
