"""Candidates take turns, and their times are compared round by round.

    ratio = median over rounds of  seconds of one / seconds of the other in the same round

What else the machine does slows both of a round alike, so their ratio can be trusted where their times cannot. Its
interval is a bootstrap over the rounds.

Source: Efron and Tibshirani (1993), An introduction to the bootstrap, section 13.3, for the percentile interval.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxmodels.core import InputError


class Ratio(NamedTuple):
    """How many times as long one candidate takes as another: below 1 it is faster."""

    value: float
    """Median over the rounds."""
    low: float
    high: float
    """The central 95 % of the medians of resampled rounds."""


class Timing(NamedTuple):
    """What a candidate took."""

    first_seconds: float
    """The first call, which may compile."""
    result: Any
    """Of the first call."""
    seconds: tuple[float, ...]
    """A call, one value a round."""

    @property
    def median(self) -> float:
        """Seconds a call."""
        return float(np.median(self.seconds))

    @property
    def spread(self) -> float:
        """Distance between the quartiles over the median."""
        low, high = np.percentile(self.seconds, [25, 75])
        return float((high - low) / self.median)

    def over(self, other: Timing) -> Ratio:
        """This one's time over the other's, of the same run of turns."""
        return ratio(self.seconds, other.seconds)


def ratio(ours: Sequence[float], theirs: Sequence[float], *, resamples: int = 2000) -> Ratio:
    """The median of ``ours / theirs``, round by round, and its interval.

    >>> ratio([1.0, 2.0, 30.0], [2.0, 4.0, 60.0])
    Ratio(value=0.5, low=0.5, high=0.5)
    """
    if len(ours) != len(theirs) or len(ours) == 0:
        raise InputError(f"ours and theirs: need a value a round each, got {len(ours)} and {len(theirs)}")
    each = np.asarray(ours) / np.asarray(theirs)
    drawn = np.random.default_rng(0).integers(0, len(each), (resamples, len(each)))  # the same answer every time
    low, high = np.percentile(np.median(each[drawn], axis=1), [2.5, 97.5])
    return Ratio(float(np.median(each)), float(low), float(high))


def take_turns(
    candidates: Mapping[str, Callable[[], Any]], *, rounds: int = 7, least_seconds: float = 0.0, pause: float = 0.0
) -> dict[str, Timing]:
    """Time candidates in one process, A B A B ..., after a call of each to warm up.

    Args:
      candidates: name -> a function without arguments. What jax returns is waited for; another library's function must
        have finished when it returns.
      rounds: turns of each.
      least_seconds: of a turn; what is shorter is called several times in it.
      pause: seconds before each turn, for another library's threads to stop spinning.

    >>> timed = take_turns({"sum": lambda: sum(range(10_000)), "more": lambda: sum(range(50_000))}, rounds=5)
    >>> timed["sum"].result, len(timed["more"].seconds), timed["more"].over(timed["sum"]).value > 0
    (49995000, 5, True)
    """
    if rounds < 1:
        raise InputError(f"rounds: needs 1 or more, got {rounds}")
    first = {name: _seconds(call) for name, call in candidates.items()}
    warm = {name: _seconds(call)[0] for name, call in candidates.items()}
    calls = {name: max(1, math.ceil(least_seconds / max(each, 1e-7))) for name, each in warm.items()}
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, call in candidates.items():
            time.sleep(pause)
            seconds[name].append(_seconds(call, calls[name])[0])
    return {name: Timing(*first[name], tuple(seconds[name])) for name in candidates}


def _seconds(call: Callable[[], Any], times: int = 1) -> tuple[float, Any]:
    """Seconds a call, and the last call's result, which is there."""
    result, start = None, time.perf_counter()
    for _ in range(times):
        result = jax.block_until_ready(call())
    return (time.perf_counter() - start) / times, result
