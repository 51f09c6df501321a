"""The oracle: block-sparse execution as one dense, slow and obvious sentence.

For each op with input x, kept input s and block mask M: ``s <- where(M, x, s)``, then the op runs
on s, and only the executed blocks of its result are used. Nothing here packs, gathers or scatters,
and what is not executed is NaN, so that an op which reads it by mistake shows at once.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor, nn

from ...errors import GridError
from ..adapter import ModelAdapter, whole_map_modules
from ..geometry import grid_size
from ..torch_internals import tree_map
from .masked_tensor import MaskedTensor
from .masked_windows import FrameOfWindows
from .pixels import MAP


class MaskedReference:
    """Runs a model by the masked sentence, frame after frame.

    For models that do not write in place through views of pixels (``x[:, :, 3] = 0``): here such a
    view is a copy.

    Args:
        model: A module in eval mode, not converted.
        block_size: Side of a block in pixels of the input.
        adapter: How the model is called; see :class:`~.adapter.ModelAdapter`.
        repack: If an op that can run on blocks reads a dense map, only use its executed blocks; see
            :class:`~blockcopy_plugins.BlockCopyConfig`.

    Examples:
        >>> reference = MaskedReference(model, block_size=32)
        >>> first = reference(torch.ones(1, 4, 4, dtype=torch.bool), frame_0)
    """

    def __init__(
        self,
        model: nn.Module,
        block_size: int,
        adapter: ModelAdapter | None = None,
        repack: bool = True,
    ) -> None:
        self.model = model
        self.repack = repack
        self.block_size = block_size
        self.adapter = adapter or ModelAdapter()
        # (stream, number of the op in the frame, number of the argument) -> (C, H, W)
        self.kept: dict[tuple[Hashable, int, int], Tensor] = {}

    def __call__(self, grid: Tensor, *args, streams: Sequence[Hashable] | None = None, **kwargs):
        """Run one frame.

        Args:
            grid: bool ``(N, GH, GW)``, True = executed. All True on a stream's first frame.
            *args: Arguments of the model.
            streams: Stream of each image, by default its index in the batch.
            **kwargs: Keyword arguments of the model.

        Returns:
            What the model returns, as dense tensors.

        Raises:
            GridError: If the grid does not fit the frame.
        """
        call = self.adapter.read_call(args, kwargs)
        size = tuple(call.frame.shape[2:])
        expected = (len(call.frame), *grid_size(*size, self.block_size))
        if tuple(grid.shape) != expected or grid.dtype != torch.bool:
            raise GridError(f"grid is {grid.dtype} {tuple(grid.shape)}, expected bool {expected}.")
        streams = tuple(range(len(call.frame))) if streams is None else tuple(streams)
        run = FrameOfWindows(self.kept, grid, streams, self.block_size, self.repack)
        hooks = []
        for module in self.adapter.read_only_inputs(self.model):
            hook = module.register_forward_pre_hook(
                lambda m, a, k: tree_map(run.leave, (a, k)), with_kwargs=True
            )
            hooks.append(hook)
        for module, _ in whole_map_modules(self.model, self.adapter):
            hooks.append(module.register_forward_pre_hook(run.go_dense, with_kwargs=True))
            hooks.append(module.register_forward_hook(run.come_back))
        for module in self.adapter.dense_outputs(self.model):
            hooks.append(module.register_forward_hook(lambda m, a, out: tree_map(run.leave, out)))
        try:
            with torch.no_grad():
                block = (self.block_size, self.block_size)
                args, kwargs = call.replace(MaskedTensor(call.frame, block, run, MAP, size))
                return tree_map(run.leave, self.model(*args, **kwargs))
        finally:
            run.maps.close()
            for hook in hooks:
                hook.remove()
