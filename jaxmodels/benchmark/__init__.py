"""Benchmarks that can be trusted: what a program costs, what the device could do, what it took beside a peer.

print(measure(step, params, batch, peers={"torch": torch_step}).json_line())
"""

from jaxmodels.benchmark.count import Count, Kernel, count
from jaxmodels.benchmark.devices import Device
from jaxmodels.benchmark.estimate import Estimate, estimate
from jaxmodels.benchmark.measure import Measurement, measure
from jaxmodels.benchmark.turns import Ratio, Timing, take_turns
from jaxmodels.benchmark.where import around, versions

__all__ = [
    "Count",
    "Device",
    "Estimate",
    "Kernel",
    "Measurement",
    "Ratio",
    "Timing",
    "around",
    "count",
    "estimate",
    "measure",
    "take_turns",
    "versions",
]
