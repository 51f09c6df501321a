"""What the engine must know about a kind of model: how it is called, and which parts run dense."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from ..errors import FrameError
from ..policy import MotionField
from ..propagation import Region
from .output_parts import OutputParts, take_tree_apart


class Removable(Protocol):
    """Something that can be removed, such as torch's handle of a hook."""

    def remove(self) -> None:
        """Remove it."""


@dataclass(frozen=True)
class Call:
    """One call of a model, taken apart.

    Attributes:
        frame: ``(N, C, H, W)``, the input that runs on blocks.
        replace: ``replace(frame) -> (args, kwargs)``, the call with another tensor in its place.
        streams: Stream id of each image, or ``None`` if the call does not say.
        restarts: Streams that start again with this call.
        motion: How far the video of each image has moved, or ``None`` if the call does not say.
        seconds_before: Time that the model's own preprocessor took for the batch before the call.
        asks: What the form of the outputs depends on, apart from the frame. Two calls with equal
            values get the same outputs if nothing is executed; ``None`` if this is not known.
        is_bare: Whether the model is called with the frame alone, as its first argument.
        left: Dense outputs of the modules of :meth:`ModelAdapter.dense_outputs` in this call, by
            module path; filled in while the call runs.
    """

    frame: Tensor
    replace: Callable[[Tensor], tuple[tuple, dict]]
    streams: tuple[Hashable, ...] | None = None
    restarts: tuple[Hashable, ...] = ()
    motion: tuple[MotionField | None, ...] | None = None
    seconds_before: float = 0.0
    asks: Hashable | None = None
    is_bare: bool = False
    left: dict[str, Any] = field(default_factory=dict)


class ModelAdapter:
    """Any module whose forward takes a ``(N, C, H, W)`` tensor as its first argument.

    Integrations derive from it for models that are called differently.

    Attributes:
        graph_obstacle: Why calls of such models cannot be CUDA graphs, or programs as a whole;
            ``None`` if they can.
        runs_once: Why a frame of such models cannot be run a second time, to compare; ``None`` if
            it can.
        conv_wrappers: Subclasses of ``nn.Conv2d`` whose forward is its, followed by their ``norm``
            and their ``activation``, of which each may be ``None``.
    """

    graph_obstacle: str | None = None
    runs_once: str | None = None
    conv_wrappers: frozenset[type[nn.Conv2d]] = frozenset()

    def turns(self, args: tuple, kwargs: Mapping[str, Any], named: bool) -> Sequence[Call | None]:
        """Split a call into calls that are run one after the other.

        There are several if a batch contains several frames of one video.

        Args:
            args: Positional arguments of the model's forward.
            kwargs: Keyword arguments.
            named: Whether the streams of the call's images were named by the caller.

        Returns:
            The calls; ``None`` as the only one if the call runs as in the plain model.

        Raises:
            FrameError: If there is no frame where one is expected, or the streams of the frames are
                not known.
        """
        return (self.read_call(args, kwargs),)

    def join_turns(self, outputs: Sequence[Any]) -> Any:
        """The result of the whole call.

        Args:
            outputs: Results of the calls of :meth:`turns`, more than one.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement join_turns()")

    def read_call(self, args: tuple, kwargs: Mapping[str, Any]) -> Call | None:
        """Take a call apart.

        Args:
            args: Positional arguments of the model's forward.
            kwargs: Keyword arguments.

        Returns:
            The call, or ``None`` if it runs as in the plain model (a loss, for example).

        Raises:
            FrameError: If there is no frame where one is expected.
        """
        if args and isinstance(args[0], Tensor):
            asks = asked(args[1:], kwargs)
            is_bare = len(args) == 1 and not kwargs
            return Call(
                args[0],
                lambda frame: ((frame, *args[1:]), dict(kwargs)),
                asks=asks,
                is_bare=is_bare,
            )
        for name, value in kwargs.items():
            if isinstance(value, Tensor) and value.dim() == 4:
                asks = asked(args, {k: v for k, v in kwargs.items() if k != name})
                return Call(
                    value, lambda frame, name=name: (args, {**kwargs, name: frame}), asks=asks
                )
        found = [_kind(a) for a in args] + [f"{k}={_kind(v)}" for k, v in kwargs.items()]
        raise FrameError(
            f"the model was called with ({', '.join(found)}), expected a tensor (N, C, H, W) as "
            "first argument. Convert the submodule that takes it, or give blockcopy_ an adapter."
        )

    def attach(self, model: nn.Module) -> Iterable[Removable]:
        """Attach what this kind of model needs besides the engine's own hooks.

        Args:
            model: The model that is being converted.

        Returns:
            What :func:`~blockcopy_plugins.restore_` removes again, by ``remove()``.
        """
        return ()

    def read_only_inputs(self, model: nn.Module) -> Iterable[nn.Module]:
        """Modules that need dense inputs, which they neither change nor keep."""
        return ()

    def reads_channels_last(self, module: nn.Module) -> bool:
        """Whether such a module takes channels-last maps; others get contiguous ones."""
        return False

    def is_inner_hook(self, hook: Callable) -> bool:
        """Whether a forward hook of a module belongs to the model itself.

        Such a hook hands what it sees to a call of a module around its own, as part of what that
        one computes. Programs of the outer one repeat it; other hooks have to be called.

        Args:
            hook: The hook, or one that runs before forward.
        """
        return False

    def is_observed(self) -> bool:
        """Whether inner hooks, if they ran now, would hand something to a call that has begun."""
        return False

    def dense_inputs(self, model: nn.Module) -> Iterable[nn.Module]:
        """Modules that need dense inputs.

        These are extension ops that know nothing about BlockTensors, and average poolings over a
        large part of the map.
        """
        return ()

    def dense_outputs(self, model: nn.Module) -> Iterable[nn.Module]:
        """Modules whose results must be dense tensors, such as the heads of a detector."""
        return ()

    def outputs_are_read(self, module: nn.Module) -> bool:
        """Whether who gets the results of such a module neither writes to them nor keeps them.

        They may then be the state itself, channels last, and are not in :attr:`Call.left`.
        """
        return False

    def task_outputs(self, outputs: Any, call: Call) -> list | None:
        """What the information gain compares, one entry for each image.

        Args:
            outputs: What the model returned.
            call: The call that returned it.

        Returns:
            A list of :class:`~blockcopy_plugins.policy.Detections` or of tensors ``(C, h, w)``, or
            ``None`` if the outputs contain nothing to compare.
        """
        found = first_map(outputs, call.frame)
        return None if found is None else list(found.unbind(0))

    def take_apart(self, outputs: Any, call: Call) -> OutputParts | None:
        """Split the outputs into maps and objects that can be moved, and the rest.

        Returns:
            The parts, or ``None`` if the outputs are of an unknown kind: nothing is then moved, and
            a frame goes through the network even if none of its blocks runs.
        """
        return take_tree_apart(outputs, len(call.frame), tuple(call.frame.shape[2:]))


def asked(args: tuple, kwargs: Mapping[str, Any]) -> Hashable | None:
    """See :attr:`Call.asks`: the arguments themselves, if they are numbers, strings and the like.

    Args:
        args: Positional arguments besides the frame.
        kwargs: Keyword arguments besides the frame.
    """
    given = (*args, *kwargs.values())
    if not all(value is None or isinstance(value, (bool, int, float, str)) for value in given):
        return None
    return tuple(args), tuple(sorted(kwargs.items()))


def whole_map_modules(model: nn.Module, adapter: ModelAdapter) -> Iterable[tuple[nn.Module, str]]:
    """Modules that run on whole maps, and why.

    The map that such a module returns is cut into blocks again.

    Args:
        model: The model.
        adapter: Names further modules.
    """
    for module in adapter.dense_inputs(model):
        if isinstance(module, nn.AvgPool2d):
            yield module, "its window is a large part of the map"
        else:
            yield module, "a compiled op, which knows no blocks"
    for module in nn.Module.modules(model):
        if isinstance(module, nn.InstanceNorm2d):
            yield module, "statistics over the whole map"
        elif isinstance(module, nn.Conv2d) and module.padding_mode == "circular":
            yield module, "circular padding"


def first_map(outputs: Any, frame: Tensor) -> Tensor | None:
    """The first tensor among outputs that is a map of the frame.

    Args:
        outputs: Tensors in lists, tuples and dicts.
        frame: ``(N, C, H, W)``, the network's input.

    Returns:
        Floating-point ``(N, c, h, w)`` whose pixels are roughly square in the frame;
        ``None`` if there is none.
    """
    if isinstance(outputs, Tensor):
        whole = Region.whole(tuple(frame.shape[2:]))
        fits = outputs.dim() == 4 and len(outputs) == len(frame) and outputs.is_floating_point()
        return outputs if fits and whole.is_map(outputs.shape) else None
    if isinstance(outputs, Mapping):
        outputs = tuple(outputs.values())
    if isinstance(outputs, (list, tuple)):
        for item in outputs:
            found = first_map(item, frame)
            if found is not None:
                return found
    return None


def _kind(value: Any) -> str:
    shape = f" {tuple(value.shape)}" if isinstance(value, Tensor) else ""
    return f"{type(value).__name__}{shape}"
