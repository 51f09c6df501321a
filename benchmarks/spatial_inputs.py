"""How much the spatial ops of a dense model read: what any state of ours must hold."""

from __future__ import annotations

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_CONVOLUTIONS = ("aten::convolution", "aten::conv2d", "aten::mkldnn_convolution")
_OTHERS = ("aten::max_pool2d", "aten::avg_pool2d", "aten::upsample", "aten::_upsample")


class SpatialInputs(TorchDispatchMode):
    """Notes the inputs of convolutions and pooling with a kernel or stride beyond 1, and resizes.

    Ops on ``(1, C, H, W)`` maps alone. A tensor is counted once, whoever reads it, unless it was
    changed in place in between.
    """

    def __init__(self) -> None:
        super().__init__()
        # The tensors themselves: as long as they live, nothing else gets their memory.
        self._seen: dict[tuple[int, int], Tensor] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        if args and isinstance(args[0], Tensor) and args[0].dim() == 4:
            if name.startswith(_OTHERS) or (
                name.startswith(_CONVOLUTIONS) and not _is_pointwise(func, args, kwargs or {})
            ):
                self._seen[args[0].data_ptr(), args[0]._version] = args[0]
        return func(*args, **(kwargs or {}))

    def bytes(self) -> int:
        """Bytes of one copy of all of them."""
        return sum(x.numel() * x.element_size() for x in self._seen.values())


def _is_pointwise(func, args, kwargs) -> bool:
    """A convolution that reads each pixel for itself."""
    given = {a.name: a.default_value for a in func._schema.arguments}
    given.update(zip(given, args, strict=False))
    given.update(kwargs)
    return tuple(given["weight"].shape[2:]) == (1, 1) and not any(_pair(given["padding"]))


def _pair(value) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)
