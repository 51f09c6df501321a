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
from .torch_internals import tree_map


@dataclass
class ModuleHook:
    """A hook of this package.

    Attributes:
        active: The frame that the model is running.
    """

    active: ActiveFrame


@dataclass
class EnterModule(ModuleHook):
    """Tells the frame that a module's forward begins."""

    path: str

    def __call__(self, module, args) -> None:
        """See ``register_forward_pre_hook``."""
        frame = self.active.frame
        if frame is not None:
            frame.enter(self.path)


@dataclass
class LeaveModule(ModuleHook):
    """Tells the frame that a module's forward is over."""

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
        contiguous: Compiled ops (mmcv's RoIAlign) take memory for NCHW without looking at the
            strides.
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
    """Turns a module's results into dense tensors."""

    path: str

    def __call__(self, module, args, output):
        """See ``register_forward_hook``."""
        output = dense_results(output)
        self.active.note_exit(self.path, output)
        return output
