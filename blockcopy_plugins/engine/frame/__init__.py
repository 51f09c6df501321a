"""One frame: its grid, its paths and counts, and its blocks in packed and whole maps."""
