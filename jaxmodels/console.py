"""What a person at a terminal sees while something runs: progress bars, and lines for what is done."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

Advance = Callable[[str], None]


def line(text: str) -> None:
    """Print a line to stderr at once; stdout is kept for results."""
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def bar(description: str, total: int) -> Iterator[Advance]:
    """A progress bar on a terminal, nothing elsewhere; the function it gives moves it one on and shows a remark."""
    if not sys.stderr.isatty():
        yield lambda remark: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[remark]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(description, total=total, remark="")
        yield lambda remark: progress.update(task, advance=1, remark=remark)
