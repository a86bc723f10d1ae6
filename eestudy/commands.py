"""How a command of the study ends when it cannot go on: with one line that says what to do, not with a traceback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from eestudy.untrusted import terminal_text

INTERRUPTED = 130  # the shells' status after Ctrl-C
GO_ON = "Stopped. What is finished is kept: give the same command again and it goes on from there."
MORE_MEMORY = "not enough memory. Close other programs, or choose a smaller profile (PROFILE=smoke is the smallest)"


@contextmanager
def ends_plainly(*errors: type[Exception]) -> Iterator[None]:
    """Turn errors of the given kinds, a lack of memory or disk, and Ctrl-C into one line and an exit status.

    Raises:
        SystemExit: in place of them.
    """
    try:
        yield
    except KeyboardInterrupt:
        print(f"\n{GO_ON}", file=sys.stderr, flush=True)
        sys.exit(INTERRUPTED)
    except MemoryError:
        sys.exit(f"error: {MORE_MEMORY}")
    except (*errors, OSError) as error:
        sys.exit(f"error: {terminal_text(str(error))}")
