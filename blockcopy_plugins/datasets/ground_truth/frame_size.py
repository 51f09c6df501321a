"""Compares the size that annotations were made for with that of the frames."""

from __future__ import annotations

from blockcopy_plugins.errors import ConfigError


def frame_scale(
    stated: tuple[int, int] | None, frame: tuple[int, int] | None, place: str, video: str
) -> tuple[float, float]:
    """Pixels of the frame per pixel of the annotations.

    Args:
        stated: Height and width of the image according to the annotations, px, or None.
        frame: Those of the frame, or None if they are not known.
        place: Where the annotations say it, for messages.
        video: Path of the video.

    Returns:
        For rows and columns; 1 if a size is not known.

    Raises:
        ConfigError: The aspect ratios differ by more than the rounding of a pixel.
    """
    if stated is None or frame is None or tuple(stated) == tuple(frame):
        return 1.0, 1.0
    rows, columns = frame[0] / stated[0], frame[1] / stated[1]
    # Whichever was resized from the other, its sides were rounded to whole pixels.
    most = max(1.0, 0.51 * max(rows, columns))
    if abs(stated[1] * rows - frame[1]) <= most or abs(stated[0] * columns - frame[0]) <= most:
        return rows, columns
    said = (
        f"{place} states {stated[1]}x{stated[0]} px (width x height), but the frames of {video!r} "
        f"have {frame[1]}x{frame[0]} px"
    )
    if tuple(stated) == (frame[1], frame[0]):
        raise ConfigError(
            f"{said}: one of them is rotated by 90 degrees. Annotate the frames as they are shown, "
            "with the rotation of the container or of EXIF applied"
        )
    raise ConfigError(
        f"{said}, which is another aspect ratio; the annotations belong to other frames, or to "
        "frames that were cropped or padded"
    )
