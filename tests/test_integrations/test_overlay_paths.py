"""Videos get names of their own, whatever their inputs are called."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from blockcopy_plugins.datasets.video_list import name_videos
from blockcopy_plugins.integrations.common.overlay_paths import overlay_paths

# Letters whose combinations meet: by case, by accents in one or two characters, by separators.
NAMES = st.lists(st.text("aA/_#-2\u00e9e\u0301", min_size=1, max_size=6), min_size=1, max_size=8)


@given(NAMES)
def test_no_two_are_alike_and_none_leaves_the_folder(names):
    paths = overlay_paths("out", names, "_blockcopy.mp4")
    assert len({path.name.casefold() for path in paths}) == len(names)
    assert all(os.path.dirname(path) == "out" and path.suffix == ".mp4" for path in paths)


def test_names_stay_what_they_were_where_nothing_meets():
    paths = overlay_paths("o", name_videos(["x/a.mp4", "y/a.mp4", "x_a.mp4"]), ".mp4")
    assert [path.name for path in paths] == ["x_a.mp4", "y_a.mp4", "x_a-2.mp4"]
