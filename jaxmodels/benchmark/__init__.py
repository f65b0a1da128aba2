"""Benchmarks that can be trusted: what a program costs, what the device could do, what it took beside a peer."""

from jaxmodels.benchmark.count import Count, Kernel, count

__all__ = ["Count", "Kernel", "count"]
