"""All about a GPU in one check, ``python tools/gpu_check.py``, of sections that stand alone.

It needs torch and this package alone. Where there is no GPU, small versions of the sections run on
the CPU: graphs are recorded and done again (:mod:`.recording_backend`), kernels run as loops over
their threads (:mod:`.host_emulation`), and waits are counted by the ops that would wait
(:mod:`.device_reads`).
"""
