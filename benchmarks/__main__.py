"""``python -m benchmarks`` measures the sparse efficiency."""

from __future__ import annotations

from benchmarks.efficiency import main

if __name__ == "__main__":
    main()
