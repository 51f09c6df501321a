"""Ways to run a frame without the model's Python: see :mod:`.frame_programs`."""
