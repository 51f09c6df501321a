"""A small data set that looks like Cityscapes, drawn by a script.

The label table, the street and the camera need OpenCV and numpy; writing the ``.mat`` files SciPy.
"""

from __future__ import annotations

from examples.tiny_cityscapes.dataset import make_tiny_cityscapes

__all__ = ["make_tiny_cityscapes"]
