"""The command line's frame: runs a command, and turns what goes wrong into one line and an exit code.

Results go to stdout, as JSON where a program may read them; progress and remarks go to stderr. Exit codes: 0; 2 for
input that cannot be used; 1 for a training that diverged; 128 + n where signal n stopped it.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

from jaxmodels.core import InputError


def main() -> None:
    """Entry point of ``jaxmodels``."""
    try:
        from jaxmodels import commands
    except ImportError as error:
        if error.name != "tyro":
            raise
        _fail("the command line needs tyro: pip install 'jaxmodels[cli]'", code=2)
    from jaxmodels.train import DivergenceError

    try:
        sys.exit(commands.run())
    except InputError as error:
        _fail(str(error), code=2)
    except DivergenceError as error:
        _fail(str(error), code=1)
    except KeyboardInterrupt:
        _tell("interrupted")
        sys.stdout.flush()
        # Without tear-down: jaxlib's crashes where it was interrupted in the middle of a compilation.
        os._exit(128 + signal.SIGINT)
    except BrokenPipeError:
        # The reader of our output has left. Closing stderr keeps Python's exit from complaining about stdout.
        sys.stderr.close()
        sys.exit(128 + signal.SIGPIPE)


def _fail(message: str, *, code: int) -> NoReturn:
    _tell(message)
    sys.exit(code)


def _tell(message: str) -> None:
    print(f"jaxmodels: {' '.join(message.split())}", file=sys.stderr, flush=True)
