"""How a command of the study ends when it cannot go on: with one line that says what to do, not with a traceback."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from eestudy.untrusted import terminal_text

INTERRUPTED = 130  # the shells' status after Ctrl-C
GO_ON = "Stopped. What is finished is kept: give the same command again and it goes on from there."
MORE_MEMORY = "not enough memory. Close other programs, or choose a smaller profile (PROFILE=smoke is the smallest)"
LACKS_MEMORY = re.compile(  # how Python, torch, duckdb, C++ and the system's loader say it
    "MemoryError|out ?of ?memory|not enough memory|can(no|')t allocate memory|bad_alloc|failed to map segment",
    re.IGNORECASE,
)


def end_at_once(*_) -> NoReturn:
    """The answer to Ctrl-C where an exception would not do: say how to go on, and end without waiting for anybody."""
    os.write(2, f"\n{GO_ON}\n".encode())
    os._exit(INTERRUPTED)


def hear_ctrl_c_from_the_start() -> None:
    """Let Ctrl-C end a command at once while its modules are imported, until `ends_plainly` begins.

    That takes seconds. As an exception Ctrl-C would come as a traceback there, or not at all: some libraries swallow
    whatever is raised while they import theirs. Where it is ignored, as of what a shell runs in the background, it
    stays ignored.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, end_at_once)


@contextmanager
def ends_plainly(*errors: type[Exception]) -> Iterator[None]:
    """Turn errors of the given kinds, a lack of memory or disk, and Ctrl-C into one line and an exit status.

    Raises:
        SystemExit: in place of them.
    """
    if signal.getsignal(signal.SIGINT) is end_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        print(f"\n{GO_ON}", file=sys.stderr, flush=True)
        sys.exit(INTERRUPTED)
    except Exception as error:
        if not isinstance(error, errors) and LACKS_MEMORY.search(f"{type(error).__name__}: {error}"):
            sys.exit(f"error: {MORE_MEMORY}")
        if not isinstance(error, (*errors, OSError)):
            raise
        sys.exit(f"error: {terminal_text(str(error))}")
