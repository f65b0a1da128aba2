"""Tables: CSV and Parquet files as named columns, numbers where all cells are numbers, categories elsewhere.

A number column is float64 with NaN for what is missing, a category column holds strings with ``None``. What cannot be
read with certainty (rows of unequal length, a name that stands twice, a few words among numbers, another encoding,
infinities) is an ``InputError`` that names the place, never a guess.
"""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import os
import pathlib
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxmodels.core import InputError

MISSING = ("", "?", "NA", "N/A", "#N/A", "NaN", "nan", "NULL", "null")
"""Cells that stand for a missing value. ``None`` is not among them: it is a category in real tables."""
SEPARATORS = (",", ";", "\t", "|", " ")
"""Tried in this order; a space stands for any run of spaces and tabs."""
MOSTLY = 0.9
"""A column with this share of numbers and a few words is an error: as a category it would be silently wrong."""


class Table(NamedTuple):
    """Named columns of one length."""

    columns: dict[str, np.ndarray]
    """Numbers: float64 ``[n]``, NaN is missing. Categories: object ``[n]`` of ``str``, ``None`` is missing."""

    @property
    def num_rows(self) -> int:
        return len(next(iter(self.columns.values())))

    def rows(self, index: np.ndarray) -> Table:
        """The rows at ``index`` (numbers or a mask)."""
        return Table({name: column[index] for name, column in self.columns.items()})

    def without(self, names: Collection[str]) -> Table:
        """The other columns."""
        return Table({name: column for name, column in self.columns.items() if name not in names})


def is_number(column: np.ndarray) -> bool:
    """Whether a column of a table holds numbers, not categories."""
    return column.dtype.kind == "f"


def is_missing(column: np.ndarray) -> np.ndarray:
    """``[n]`` booleans: the cells of a table's column that are missing."""
    return np.isnan(column) if is_number(column) else np.array([cell is None for cell in column])


def read(
    path: str | os.PathLike,
    *,
    separator: str | None = None,
    header: bool | None = None,
    missing: Collection[str] = (),
    categories: Collection[str] = (),
    encoding: str | None = None,
) -> Table:
    """Read a CSV or a Parquet file (told apart by content).

    Args:
      path: the file.
      separator: of CSV cells, one of ``SEPARATORS``. Default: the one that gives most columns, as many in all rows.
      header: whether the first row holds names. Default: it does unless one of its cells is a number. Columns without
        a name are ``column_1``, ``column_2``, ...
      missing: further cells that stand for a missing value, beside ``MISSING``.
      categories: names of columns whose numbers are codes, to be read as categories.
      encoding: of CSV. Default: UTF-8, or UTF-16 where the file begins with its mark.

    Raises:
      InputError: names the file, the line or the column, and the fix.

    >>> import tempfile
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "cars.csv"
    >>> _ = file.write_text('mpg;name\\n18;"a; b"\\n?;NA\\n')
    >>> {name: column.tolist() for name, column in read(file).columns.items()}
    {'mpg': [18.0, nan], 'name': ['a; b', None]}
    """
    path = pathlib.Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    if content.startswith(b"PAR1"):
        return _read_parquet(path, content, missing, categories)
    text = _decode(path, content, encoding)
    lines, records = _records(path, text, _separator(path, text) if separator is None else separator)
    names, first = _header(path, records, header)
    _check_known(path, categories, names)
    columns = zip(*records[first:], strict=True)
    absent = frozenset(MISSING) | frozenset(missing)
    return Table(
        {
            name: _typed(f"{path}: column {name!r}", cells, lines[first:], absent, name in categories)
            for name, cells in zip(names, columns, strict=True)
        }
    )


def from_arrays(arrays: Mapping[str, Any], *, missing: Collection[str] = (), categories: Collection[str] = ()) -> Table:
    """A table from arrays in memory, such as those of a data frame; typed as ``read`` types them.

    Args:
      arrays: ``{name: [n]}``: numbers, strings, booleans, dates (which become days since 1970).
      missing, categories: as for ``read``.

    >>> from_arrays({"a": [1, 2], "b": ["x", None]}).columns["b"].tolist()
    ['x', None]
    """
    if not arrays:
        raise InputError("arrays: there are no columns; give one or more")
    columns = {str(name): np.asarray(array) for name, array in arrays.items()}
    shapes = {column.shape for column in columns.values()}
    if len(shapes) > 1 or len(next(iter(shapes))) != 1 or shapes == {(0,)}:
        raise InputError(f"arrays: columns must all be [n], n > 0, got shapes {', '.join(map(str, sorted(shapes)))}")
    _check_known("arrays", categories, columns)
    absent = frozenset(MISSING) | frozenset(missing)
    return Table({name: _from_array(name, column, absent, name in categories) for name, column in columns.items()})


def _read_parquet(path: pathlib.Path, content: bytes, missing: Collection[str], categories: Collection[str]) -> Table:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InputError("Parquet needs pyarrow: pip install 'jaxmodels[tables]'") from error
    try:
        table = pyarrow.parquet.read_table(io.BytesIO(content))
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: is not a whole Parquet file ({_short(error)}); copy it again") from error
    names = _unique(path, table.column_names)
    arrays = {}
    for name, column in zip(names, table.columns, strict=True):
        if pyarrow.types.is_nested(column.type):
            raise InputError(f"{path}: column {name!r} holds {column.type}, not one value a row; flatten or drop it")
        if pyarrow.types.is_decimal(column.type):
            column = column.cast(pyarrow.float64())
        arrays[name] = column.to_numpy()
    try:
        return from_arrays(arrays, missing=missing, categories=categories)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _from_array(name: str, column: np.ndarray, absent: frozenset[str], category: bool) -> np.ndarray:
    place = f"column {name!r}"
    if column.dtype.kind == "M":
        days = column.astype("datetime64[us]").astype(np.float64) / 86_400e6
        return np.where(np.isnat(column), np.nan, days)
    if column.dtype.kind in "iuf" and not category:
        return _finite(place, column.astype(np.float64), range(1, len(column) + 1))
    if column.dtype.kind not in "iufbOUS":
        raise InputError(f"{place} has dtype {column.dtype}; give numbers, strings or dates")
    gone = [cell is None or cell != cell for cell in column.tolist()]
    cells = ["" if empty else _text(cell) for cell, empty in zip(column.tolist(), gone, strict=True)]
    return _typed(place, cells, range(1, len(cells) + 1), absent, category)


def _text(cell: Any) -> str:
    """As a CSV file would have it; 3.0 and 3 are one category."""
    if isinstance(cell, bytes):
        return cell.decode("utf-8", "backslashreplace")
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


def _decode(path: pathlib.Path, content: bytes, encoding: str | None) -> str:
    if encoding is None:
        wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        encoding = "utf-16" if wide else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}: byte 0x{content[error.start]:02x} in line {line} is not {encoding.removesuffix('-sig')}; "
            "say what it is written in, as encoding latin-1"
        ) from error
    except LookupError as error:
        raise InputError(f"encoding: {encoding!r} is unknown; give utf-8, latin-1, cp1252, utf-16 ...") from error
    if "\0" in text:
        raise InputError(f"{path}: holds NUL characters, so it is not a text file; export it as CSV or Parquet")
    if not text.strip():
        raise InputError(f"{path}: is empty; give a file with rows")
    return text.removeprefix("\ufeff")


def _reader(text: str, separator: str, *, strict: bool) -> Any:
    if separator == " ":
        text = re.sub(r"[ \t]+$", "", text.replace("\t", " "), flags=re.MULTILINE)
    # Spaces after a separator are no part of the cell: `a, b`.
    return csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=strict)


def _separator(path: pathlib.Path, text: str) -> str:
    """The separator that cuts all of the first rows into the same number of cells, the most of them."""
    found: dict[str, int] = {}
    for separator in SEPARATORS:
        counts = [len(record) for record in itertools.islice(_lenient(text, separator), 50) if record]
        if len(set(counts)) == 1:
            found[separator] = counts[0]
    # A space is for tables without any other separator: words of a text have spaces too.
    widest = max(found, key=lambda separator: (separator != " " and found[separator] > 1, found[separator]), default="")
    if found.get(widest, 0) > 1:
        return widest
    head = text.split("\n", 1)[0]
    return max(SEPARATORS[:-1], key=head.count) if any(each in head for each in SEPARATORS[:-1]) else ","


def _lenient(text: str, separator: str) -> Iterator[list[str]]:
    try:
        yield from _reader(text, separator, strict=False)
    except csv.Error:  # said with its line when the whole file is read
        return


def _records(path: pathlib.Path, text: str, separator: str) -> tuple[list[int], list[list[str]]]:
    """Line numbers and cells of all rows, blank lines left out; every row has as many cells as the first."""
    if separator not in SEPARATORS:
        raise InputError(f"separator: {separator!r} is none of {', '.join(map(repr, SEPARATORS))}")
    reader, lines, records = _reader(text, separator, strict=True), [], []
    try:
        for record in reader:
            if not record:
                continue
            if records and len(record) != len(records[0]):
                raise InputError(
                    f"{path}: line {reader.line_num} has {len(record)} cells, the first row has {len(records[0])} "
                    f"(separator {separator!r}); correct that line, or say the separator"
                )
            lines.append(reader.line_num)
            records.append([cell.strip() for cell in record])
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num}: {error}; check its quotes") from error
    return lines, records


def _header(path: pathlib.Path, records: list[list[str]], header: bool | None) -> tuple[list[str], int]:
    """Names, and the first row of data."""
    if header is None:
        header = not any(_is_number(cell) for cell in records[0])
    named = records[0] if header else [""] * len(records[0])
    if len(records) == int(header):
        raise InputError(f"{path}: has a header and no rows; give a file with rows")
    return _unique(path, named), int(header)


def _unique(path: pathlib.Path, names: Sequence[str]) -> list[str]:
    names = [name.strip() or f"column_{place}" for place, name in enumerate(names, start=1)]
    for place, name in enumerate(names):
        if name in names[:place]:
            raise InputError(
                f"{path}: columns {names.index(name) + 1} and {place + 1} are both named {name!r}; rename one"
            )
    return names


def _check_known(path: Any, categories: Collection[str], names: Collection[str]) -> None:
    if unknown := [name for name in categories if name not in names]:
        raise InputError(f"{path}: has no column {unknown[0]!r}; it has {', '.join(names)}")


def _typed(
    place: str, cells: Sequence[str], lines: Sequence[int], absent: frozenset[str], category: bool
) -> np.ndarray:
    """Numbers where all cells that are there are numbers, else categories."""
    present = [cell not in absent for cell in cells]
    if not category:
        numbers = _numbers(cells, present)
        if numbers is not None:
            return _finite(place, numbers, lines)
        counts = Counter(cell for cell, there in zip(cells, present, strict=True) if there)
        words = {cell: count for cell, count in counts.items() if not _is_number(cell)}
        others, total = sum(words.values()), sum(counts.values())
        if total - others >= MOSTLY * total:
            at = next(at for at, cell in enumerate(cells) if cell in words)
            raise InputError(
                f"{place} has {total - others} numbers and {others} other cells, the first {cells[at]!r} "
                f"in line {lines[at]}; correct them, or say that they are missing values or that it holds categories"
            )
    values = np.empty(len(cells), object)
    values[:] = [cell if there else None for cell, there in zip(cells, present, strict=True)]
    return values


def _numbers(cells: Sequence[str], present: Sequence[bool]) -> np.ndarray | None:
    """The cells as numbers, or ``None``; commas as decimal points where every cell reads so and one has to."""
    texts = [cell if there else "nan" for cell, there in zip(cells, present, strict=True)]
    if any("_" in text for text in texts):  # Python reads 1_000 as a number, a table does not mean it
        return None
    for decimal in (texts, [text.replace(",", ".") for text in texts]):
        try:
            return np.array([float(text) for text in decimal])
        except ValueError:
            if any("." in text for text in texts) or not any("," in text for text in texts):
                return None
            if any(re.fullmatch(r"[+-]?\d{1,3}(,\d{3})+", text) for text in texts):  # 1,234 could be thousands
                return None
    return None


def _is_number(cell: str) -> bool:
    return _numbers([cell], [True]) is not None and cell.lower() != "nan"


def _finite(place: str, numbers: np.ndarray, lines: Sequence[int]) -> np.ndarray:
    infinite = np.flatnonzero(np.isinf(numbers))
    if infinite.size:
        raise InputError(
            f"{place} is infinite in {infinite.size} rows, the first in line {lines[infinite[0]]}; "
            "correct those cells, or leave them empty to have them imputed"
        )
    return numbers


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
