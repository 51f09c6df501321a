"""Block-sparse execution of convolutional networks on video, with no retraining.

>>> import blockcopy_plugins as bc
>>> bc.blockcopy_(model, bc.BlockCopyConfig(block_size=128, policy='all'))
>>> for frame in video:
...     out = model(frame)
>>> print(bc.report(model))
>>> bc.reset_(model)
"""

from __future__ import annotations

from .api import blockcopy_
from .config import BlockCopyConfig
from .engine.block_tensor import BlockTensor
from .engine.convert import dense, handle, report, reset_, restore_, streams, to_dense
from .engine.macs import MacCounter

__version__ = "0.1.0"

__all__ = [
    "BlockCopyConfig",
    "BlockTensor",
    "MacCounter",
    "blockcopy_",
    "dense",
    "handle",
    "report",
    "reset_",
    "restore_",
    "streams",
    "to_dense",
]
