"""Two files of measurements, question by question: what became faster, and beside the peers what did."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxmodels.core import InputError


class Change(NamedTuple):
    """A question that both files answer."""

    name: str
    peer: str | None
    """``None``: the times themselves, which tell something on the same idle machine only."""
    before: float
    after: float
    """Seconds, or ours over the peer's with ``peer``."""

    @property
    def ratio(self) -> float:
        """After over before: below 1, it is better now."""
        return self.after / self.before


def read(path: str | os.PathLike[str]) -> dict[str, dict[str, Any]]:
    """The lines that ``Measurement.json_line`` wrote, by name; of a name that comes twice, the last.

    Raises:
      InputError: no such file, or a line that is none; names it.
    """
    try:
        lines = pathlib.Path(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"file: {path} cannot be read ({error}): give one that jaxmodels bench wrote") from error
    found = {}
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            found[record["name"]] = {"seconds": record["seconds"], "peers": record["peers"], **record}
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"file: {path} line {number} is no measurement that jaxmodels bench wrote") from error
    if not found:
        raise InputError(f"file: {path} has no line: give one that jaxmodels bench wrote")
    return found


def changes(before: Mapping[str, dict[str, Any]], after: Mapping[str, dict[str, Any]]) -> list[Change]:
    """Every question and peer that both have.

    Raises:
      InputError: they have none in common.

    >>> record = lambda seconds, ratio: {"f": {"seconds": seconds, "peers": {"numpy": {"ratio": ratio}}}}
    >>> [(each.peer, each.ratio) for each in changes(record(2.0, 0.5), record(1.0, 0.25))]
    [(None, 0.5), ('numpy', 0.5)]
    """
    found = []
    for name in before:
        if name not in after:
            continue
        found.append(Change(name, None, before[name]["seconds"], after[name]["seconds"]))
        theirs = after[name]["peers"]
        for peer, timing in before[name]["peers"].items():
            if peer in theirs:
                found.append(Change(name, peer, timing["ratio"], theirs[peer]["ratio"]))
    if not found:
        raise InputError(f"files: nothing in common: {', '.join(before)} and {', '.join(after)}")
    return found
