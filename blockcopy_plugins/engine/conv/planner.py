"""What runs a convolution: the one entry to all implementations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from ...ops import NO_KERNELS
from ..decline import Decline
from ..frame.frame import Frame
from ..tensor.block_tensor import BlockTensor
from .block_windows import is_local, plan_window
from .cpu_convolutions import CpuConvolutions
from .implementation import ConvImplementation, ConvShape
from .linear_layers import multiply_rows
from .prepared_weights import WeightsInUse
from .region_convolution import convolve_regions
from .torch_convolutions import TorchConvolutions

_UNKNOWN = object()


class ConvPlanner:
    """The convolutions of a converted model, whether from modules, ops or this package's layers.

    Args:
        fuse: Defer a convolution until the batch norm, addition and activation after it are known.
        winograd: Run convolutions of stride 1 whose kernels have 3 or 5 taps along one axis or
            both by Winograd's algorithm.

    Attributes:
        cpu: The package's own kernels, ``None`` if there are none.
        torch: Runs whatever the kernels do not support.
    """

    def __init__(self, fuse: bool, winograd: bool) -> None:
        self.cpu: CpuConvolutions | None = CpuConvolutions.make(fuse, winograd)
        self.torch = TorchConvolutions(fuse)

    def not_fast_reasons(self, x: Tensor, weight: Tensor, groups: int) -> Sequence[str]:
        """Why the package's own kernels do not run a convolution; empty if they do.

        Args:
            x: ``(N, C, H, W)``.
            weight: ``(C_out, C / groups, kh, kw)``.
            groups: Groups of channels.
        """
        cpu = self.cpu
        return NO_KERNELS if cpu is None else cpu.not_supported_reasons(x, weight, groups)

    def convolve(
        self,
        frame: Frame,
        x: BlockTensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
        groups: int,
        fast_only: bool = False,
    ) -> BlockTensor | Decline | None:
        """Convolve a map, now or deferred until the ops that follow are known.

        Args:
            frame: The frame being run.
            x: ``(N, C, H, W)``.
            weight: ``(C_out, C / groups, kh, kw)``.
            bias: ``(C_out,)`` or None.
            stride: Step between outputs; like what follows, a pair for rows and columns.
            padding: Zeros on each side.
            dilation: Distance of the taps.
            groups: Groups of channels.
            fast_only: Return ``None`` where the package's own kernels do not run it.

        Returns:
            ``(N, C_out, H', W')``, or why it cannot run on blocks; see ``fast_only``.
        """
        reasons = self.not_fast_reasons(x, weight, groups)
        chosen: ConvImplementation = self.torch if reasons else self.cpu
        if reasons:
            if fast_only:
                return None
            frame.counts.by_torch[frame.path] = reasons
        how = (stride, padding, dilation, groups)
        # The tables that read a padded map differ from call to call.
        if type(x) is not BlockTensor:
            plan = self._plan(chosen, frame, x, weight, *how)
        else:
            where = (frame.path, not reasons, frame.images, frame.whole)
            key = (*where, x.axes, x.size_of_map, x.block, weight.shape, how)
            plans = frame.plans.convolutions
            plan = plans.get(key, _UNKNOWN)
            if plan is _UNKNOWN:
                plan = plans[key] = self._plan(chosen, frame, x, weight, *how)
        if isinstance(plan, Decline):
            return plan
        return chosen.run(frame, x, weight, bias, plan)

    @staticmethod
    def _plan(
        chosen: ConvImplementation,
        frame: Frame,
        x: BlockTensor,
        weight: Tensor,
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
        groups: int,
    ):
        found = plan_window(frame, x, weight.shape[2:], stride, padding, dilation, 0.0)
        if isinstance(found, Decline):
            return found
        window, size_out = found
        per_pixel = weight.numel()
        shape = ConvShape(
            window=window,
            size_out=size_out,
            local=is_local(x, window, size_out),
            groups=groups,
            dense_macs=frame.images * size_out[0] * size_out[1] * per_pixel,
            block_macs=window.block_out[0] * window.block_out[1] * per_pixel,
        )
        return chosen.plan(frame, x, weight, shape)

    def transpose(
        self, frame: Frame, x: BlockTensor, weight: Tensor, bias: Tensor | None, shape: ConvShape
    ) -> BlockTensor | None:
        """Convolve a map by a transposed convolution; see :meth:`CpuConvolutions.transpose`."""
        plain = shape.groups == 1 and shape.window.dilation == (1, 1)
        if self.cpu is None or not plain:
            return None
        return self.cpu.transpose(frame, x, weight, bias, shape)

    def convolve_regions(self, frame: Frame, x: Tensor, module: nn.Conv2d) -> Tensor | None:
        """Convolve an ordinary tensor, see :func:`~.region_convolution.convolve_regions`."""
        return None if self.cpu is None else convolve_regions(self.cpu, frame, x, module)

    def multiply_rows(self, x: Tensor, module: nn.Linear) -> Tensor | None:
        """Apply a linear layer to an ordinary tensor, see :func:`~.linear_layers.multiply_rows`."""
        return None if self.cpu is None else multiply_rows(self.cpu, x, module)

    def joins(self, x: BlockTensor) -> bool:
        """Whether the package's kernels run concatenations, additions and resizes of a map."""
        return self.cpu is not None and self.cpu.joins(x)

    # -- what is kept between frames --------------------------------------------------------------

    def begin_frame(self) -> None:
        """Check one of the prepared weights for writes."""
        if self.cpu is not None:
            self.cpu.prepared.look_at_one()

    def memory(self) -> list[Tensor]:
        """Memory that is written to besides results."""
        return [] if self.cpu is None else self.cpu.memory()

    def bytes(self) -> int:
        """Memory of prepared weights and scratch, in bytes."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.memory())

    def weights_among(self, tensors: Iterable[Tensor]) -> WeightsInUse | None:
        """The weights whose prepared layout is among some tensors; ``None`` without kernels."""
        return None if self.cpu is None else self.cpu.prepared.among(tensors)

    def clear(self) -> None:
        """Give back weights and scratch memory."""
        if self.cpu is not None:
            self.cpu.clear()
