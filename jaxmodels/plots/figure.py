"""A figure without pyplot, its look, and how it becomes a file."""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
import unicodedata
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxmodels.core import InputError

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, BLACK = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#F0E442",
    "#000000",
)
COLORS = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY, BLACK)
STYLES = ("-", "--", "-.", ":")
GRAY = "#767676"
_FALLBACK_FONTS = (
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "Source Han Sans",
    "WenQuanYi Micro Hei",
    "Droid Sans Fallback",
)

Path = str | os.PathLike[str]


@contextlib.contextmanager
def drawing(size: tuple[float, float]) -> Iterator[tuple[Any, Any]]:
    """A figure of ``size`` inches and the function that saves it; text falls back on what fonts there are."""
    try:
        import matplotlib
        from matplotlib import font_manager
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError("plots need matplotlib: pip install 'jaxmodels[plots]'") from error

    installed = set(font_manager.fontManager.get_font_names())
    look: dict[Any, Any] = {
        "font.family": ["DejaVu Sans", *(font for font in _FALLBACK_FONTS if font in installed)],
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.3,
        "axes.axisbelow": True,
    }
    with matplotlib.rc_context(look), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = Figure(figsize=size, dpi=110, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure, lambda path: _save(figure, path)


def _save(figure, path: Path) -> pathlib.Path:
    """Write the PNG whole or not at all."""
    path = pathlib.Path(path)
    if path.suffix.lower() != ".png":
        raise InputError(f"path must end in .png, got {path}")
    content = io.BytesIO()
    figure.savefig(content, format="png")
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content.getvalue())
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise InputError(f"path: {path} cannot be written ({error.strerror}): choose a place you may write") from error
    return path


def set_labels(axes, title: str, x: str, y: str, *, pad: float = 6) -> None:
    """Title, ``pad`` points above, and axes, in one size everywhere."""
    axes.set_title(title, fontsize=11, pad=pad)
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def short_number(value: float) -> str:
    """A number in few characters: 12, 0.917, 1.2e+05."""
    return f"{int(value)}" if float(value).is_integer() and abs(value) < 1e6 else f"{value:.3g}"


def one_line(name: str, limit: int) -> str:
    """A class name in one line of at most ``limit`` columns, which the plotter does not read as a formula."""
    name = "".join(character if character.isprintable() else " " for character in str(name)).strip()
    width = [2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in name]
    if sum(width) > limit:
        fits = np.searchsorted(np.cumsum(width), limit - 1, side="right")
        name = name[:fits].rstrip() + "…"
    return name.replace("$", r"\$")
