"""What was raised, as an exit status and as a line on stderr.

In: an exception. Out: a number, a text. Promise: imports nothing heavy, so that the command line can tell a fault at once.
"""

from __future__ import annotations

import sys
import traceback

from dgraph.error import DgraphError

_DEFECT_STATUS = 1
_INTERRUPT_STATUS = 130
PIPE_STATUS = 141
"""Of a command whose output is read no further, as `head` does: what a shell gives for SIGPIPE."""


def status_of(error: BaseException) -> int:
    """The exit status for what a rank raised."""
    if isinstance(error, DgraphError):
        return error.status
    if isinstance(error, KeyboardInterrupt):
        return _INTERRUPT_STATUS
    if isinstance(error, BrokenPipeError):
        return PIPE_STATUS
    if isinstance(error, SystemExit):
        code = error.code
        return code if isinstance(code, int) else int(code is not None)
    return _DEFECT_STATUS


def tell(error: BaseException, place: str = "") -> None:
    """Print the cause on stderr: one line, after the traceback if it is a defect."""
    if isinstance(error, DgraphError):
        text = str(error)
    elif isinstance(error, KeyboardInterrupt):
        text = "interrupted"
    elif isinstance(error, BrokenPipeError):
        text = "nobody reads the output any more"
    elif isinstance(error, SystemExit):
        text = error.code if isinstance(error.code, str) else ""
    else:
        traceback.print_exception(error)
        text = f"{place}: {type(error).__name__}: {error}".removesuffix(": ")
    if text:
        # One write: a launcher that ends the ranks may drop what comes after.
        sys.stderr.write(" ".join(text.split("\n")) + "\n")
        sys.stderr.flush()


def warn(text: str) -> None:
    """Print one line on stderr that is no error."""
    sys.stderr.write(f"warning: {' '.join(text.split())}\n")
    sys.stderr.flush()
