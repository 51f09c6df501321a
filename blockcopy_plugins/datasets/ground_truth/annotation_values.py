"""Checked values of annotation files; an error says where a wrong value is."""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from blockcopy_plugins.errors import ConfigError


@dataclass(frozen=True)
class Entry:
    """A JSON object of a list in a file.

    Attributes:
        file: Path of the file.
        kind: Name of the list (``'annotations'``).
        index: Place in it, from 0.
        values: The object.
    """

    file: str
    kind: str
    index: int
    values: Mapping[str, Any]

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        own = self.values.get("id") if isinstance(self.values, Mapping) else None
        named = "" if own is None else f" (id {own!r})"
        return f"{self.kind}[{self.index}]{named} of {self.file!r}"

    def error(self, field: str, expected: str) -> ConfigError:
        """An error that names the file, the entry, the field, its value and what belongs there.

        Args:
            field: Name of the field.
            expected: What belongs there, and perhaps what to do.
        """
        if field not in self.values:
            return ConfigError(f"{self.place} has no {field}; expected {expected}")
        found = repr(self.values[field])
        if len(found) > 80:
            found = f"{found[:77]}..."
        return ConfigError(f"{field} of {self.place} is {found}; expected {expected}")

    def has(self, field: str) -> bool:
        """Whether a field has a value; null counts as absent."""
        return self.values.get(field) is not None

    def identity(self, field: str) -> str:
        """An id in the form in which ids are compared: 7, 7.0 and '7' are the same.

        Raises:
            ConfigError: It is missing, or neither a whole number nor a text.
        """
        value = self.values.get(field)
        if isinstance(value, str) and value:
            return value
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        raise self.error(field, "a whole number or a text")

    def number(self, field: str) -> float:
        """A finite number.

        Raises:
            ConfigError: It is not one.
        """
        return finite(self.values.get(field), lambda: self.error(field, "a finite number"))

    def flag(self, field: str) -> bool:
        """A flag, which COCO writes as 0 or 1; absent means False.

        Raises:
            ConfigError: It is something else.
        """
        value = self.values.get(field)
        if value is None:
            return False
        if isinstance(value, (bool, int, float)) and value in (0, 1):
            return bool(value)
        raise self.error(field, "0 or 1")

    def frame_number(self, field: str) -> int | None:
        """The number of a frame, or None if the field has no value.

        Raises:
            ConfigError: It is not a whole number, or negative.
        """
        value = self.values.get(field)
        if value is None:
            return None
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,18}", value, re.ASCII):
            value = int(value)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
        raise self.error(field, "a whole number from 0, the frame's place in its video")

    def size(self) -> tuple[int, int] | None:
        """Height and width of an image, px, or None if they are not stated.

        Raises:
            ConfigError: One of them is not a positive number, or only one of them is stated.
        """
        if not self.has("width") and not self.has("height"):
            return None
        found = []
        for field in ("height", "width"):
            value = self.number(field)
            if value < 1 or value != int(value):
                raise self.error(field, "a whole number of pixels, at least 1")
            found.append(int(value))
        return found[0], found[1]


def read_text(path: str) -> str:
    """The text of a file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark.

    Raises:
        ConfigError: It is empty, compressed, or not such a text.
    """
    with open(path, "rb") as file:
        content = file.read()
    if not content.strip():
        raise ConfigError(f"{path!r} is empty; export it again, or copy it again")
    if content.startswith((b"\x1f\x8b", b"PK\x03\x04", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf")):
        raise ConfigError(f"{path!r} is compressed; unpack it, and give the file that is in it")
    # UTF-32's mark begins like UTF-16's.
    marks = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32"}
    marks |= {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
    encoding = next((name for mark, name in marks.items() if content.startswith(mark)), "utf-8-sig")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path!r} is not a text file: {error}; save it in UTF-8") from error


def finite(value: Any, error: Any) -> float:
    """A finite number as float.

    Args:
        value: What was found.
        error: Makes the error to raise for anything else.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            raise error() from None
        if math.isfinite(number):
            return number
    raise error()


def entries_of(file: str, content: Mapping[str, Any], kind: str) -> list[Entry]:
    """The objects of a list in a JSON file.

    Args:
        file: Its path.
        content: What it holds.
        kind: Name of the list; absent means empty.

    Raises:
        ConfigError: It is not a list of objects.
    """
    found = content.get(kind, [])
    if not isinstance(found, list):
        raise ConfigError(
            f"{kind} of {file!r} is {type(found).__name__ if found is not None else 'null'}; "
            f"expected a list of objects"
        )
    entries = [Entry(file, kind, index, values) for index, values in enumerate(found)]
    for entry in entries:
        if not isinstance(entry.values, dict):
            raise ConfigError(
                f"{kind}[{entry.index}] of {file!r} is {str(entry.values)[:60]!r}; expected an "
                "object with named fields"
            )
    return entries
