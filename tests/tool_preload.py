"""Work done once in the process that all tools are forked from; see `tool_process`."""

from __future__ import annotations

import contextlib
import gc
import importlib

# What is not installed is passed over. The package itself is for the tools to import.
for name in ("cv2", "av", "mmdet.apis", "mmseg.apis", "yapf.yapflib.yapf_api", "torch._dynamo"):
    with contextlib.suppress(ImportError):
        importlib.import_module(name)
# A collection need not look through all that was imported, in any of the processes.
gc.collect()
gc.freeze()
