"""The entry into a converted model for torch.compile, whose machinery this imports."""

from __future__ import annotations

import torch

from .eager_entry import enter_eagerly

enter_uncompiled = torch.compiler.disable(enter_eagerly)
"""`enter_eagerly`, which torch.compile neither looks into nor at what it calls."""
