"""What is known of packed memory that several tensors may share, or be copies of."""

from __future__ import annotations

import weakref

from .frame_of_tensors import TensorOfBlocks
from .mirror import Mirror
from .viewed_map import ViewedMap


class Version:
    """Counts the in-place changes of packed memory that several tensors may share.

    Attributes:
        count: Changes so far.
        shared: More than one tensor uses the memory.
        viewed: Whole maps of which the model holds views.
        mirrors: Copies that replace views of this memory, and that the model holds views of.
        mirror: For a copy that replaces a view, how it follows the base of that view.
        copies: Versions of this memory and of copies that replace views of it and cannot follow;
            one list for all of them.
        is_stale: One of these others has been written to, and the writes are missing here.
    """

    __slots__ = (
        "__weakref__",
        "copies",
        "count",
        "is_stale",
        "mirror",
        "mirrors",
        "shared",
        "viewed",
    )

    def __init__(self) -> None:
        self.count = 0
        self.shared = False
        self.viewed: list[ViewedMap] = []
        self.mirrors: list[TensorOfBlocks] = []
        self.mirror: Mirror | None = None
        self.copies: list[weakref.ref[Version]] = []
        self.is_stale = False

    def replace_view(self, of: Version) -> None:
        """Note that this is the memory of a copy that replaces a view, and cannot follow.

        Args:
            of: That of the base of the view.
        """
        if not of.copies:
            of.copies.append(weakref.ref(of))
        self.copies = of.copies
        self.copies.append(weakref.ref(self))

    def others(self) -> list[Version]:
        """Those of :attr:`copies` that somebody still holds, without this one."""
        found = (copy() for copy in self.copies)
        return [version for version in found if version is not None and version is not self]

    def note_write(self) -> None:
        """Count a change in place; it is missing in copies that should show it."""
        self.count += 1
        for version in self.others():
            version.is_stale = True
