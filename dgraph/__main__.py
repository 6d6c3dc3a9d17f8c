"""`python -m dgraph`, and the console command `dgraph`.

The threads of numeric libraries are set before anything imports NumPy, which reads their number once.
"""

from __future__ import annotations

from dgraph.runtime.environment import set_threads

set_threads()

from dgraph.cli.main import main  # noqa: E402

if __name__ == "__main__":
    main()
