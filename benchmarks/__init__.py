"""Speed and memory of block-sparse execution, measured, never asserted.

``python -m benchmarks.efficiency``     E of DESIGN's table, as JSON, table and picture
``python -m benchmarks.profile_frame``  where the time of a sparse frame goes
``python -m benchmarks.ops_bandwidth``  gather and scatter against a plain copy
``python -m benchmarks.memory``         memory over many frames
"""
