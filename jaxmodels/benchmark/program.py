"""A traced program as one list of equations: what is called stands in place of the call, what nobody needs is gone."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple


class Step(NamedTuple):
    """An equation and the numbers of the values that go in and come out."""

    equation: Any
    operands: list[int]
    results: list[int]


class Program(NamedTuple):
    """A flat program; values are numbered."""

    inputs: dict[int, Any]
    """Number -> the variable that has its shape and dtype."""
    constants: dict[int, Any]
    """The same of literals and captured arrays."""
    donated: set[int]
    """Inputs whose memory the program may reuse."""
    steps: list[Step]
    outputs: list[int]


def flat(jaxpr: Any) -> Program:
    """Inline every call, custom derivative and rematerialisation; loops and branches stay equations.

    >>> import jax
    >>> traced = jax.make_jaxpr(lambda x: jax.jit(lambda x: (2 * x, x @ x))(x)[0])(jax.numpy.ones((3, 3)))
    >>> [step.equation.primitive.name for step in flat(traced).steps]
    ['mul']
    """
    numbers, constants, donated, steps = itertools.count(), {}, set(), []

    def inline(jaxpr: Any, operands: Sequence[int]) -> list[int]:
        known = dict(zip(jaxpr.invars, operands, strict=True))

        def number(variable):
            if is_literal(variable) or variable not in known:  # a captured array
                found = next(numbers)
                constants[found] = variable
                if is_literal(variable):
                    return found
                known[variable] = found
            return known[variable]

        for equation in jaxpr.eqns:
            inputs = [number(variable) for variable in equation.invars]
            donated.update(itertools.compress(inputs, equation.params.get("donated_invars", ())))
            inner = _called(equation, inputs)
            if inner is not None:
                results = inline(*inner)
            else:
                results = [next(numbers) for _ in equation.outvars]
                steps.append(Step(equation, inputs, results))
            known.update(zip(equation.outvars, results, strict=True))
        return [number(variable) for variable in jaxpr.outvars]

    jaxpr = open_jaxpr(jaxpr)
    inputs = {next(numbers): variable for variable in jaxpr.invars}
    outputs = inline(jaxpr, list(inputs))
    return Program(inputs, constants, donated, _needed(steps, outputs), outputs)


def open_jaxpr(jaxpr: Any) -> Any:
    """Without its constants, where it is a closed one."""
    return getattr(jaxpr, "jaxpr", jaxpr)


def is_literal(variable: Any) -> bool:
    """Whether it stands for a number written in the program."""
    return hasattr(variable, "val")


def _called(equation: Any, operands: list[int]) -> tuple[Any, list[int]] | None:
    """The program that an equation calls, and its operands."""
    name, parameters = equation.primitive.name, equation.params
    if name in ("scan", "while", "cond", "pallas_call"):
        return None
    if name == "custom_linear_solve":
        lengths = parameters["const_lengths"]
        first = lengths.matvec + lengths.vecmat
        chosen = operands[first : first + lengths.solve] + operands[sum(lengths) :]
        return open_jaxpr(parameters["jaxprs"].solve), chosen
    inner = next((parameters[name] for name in ("jaxpr", "call_jaxpr", "call") if name in parameters), None)
    if inner is None:
        return None
    inner = open_jaxpr(inner)
    return inner, operands[len(operands) - len(inner.invars) :]


def _needed(steps: list[Step], outputs: Sequence[int]) -> list[Step]:
    """Without steps whose results nobody uses, as a compiler would."""
    used, kept = set(outputs), []
    for step in reversed(steps):
        if used.intersection(step.results):
            used.update(step.operands)
            kept.append(step)
    return kept[::-1]
