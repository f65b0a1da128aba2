"""Tables: real files, hostile ones, and what they are read as."""

from __future__ import annotations

import numpy as np
import pytest

from jaxmodels.core import InputError
from jaxmodels.data import tables


@pytest.fixture
def write(tmp_path):
    def written(content: str | bytes, name: str = "table.csv"):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return written


def lists(table: tables.Table) -> dict[str, list]:
    return {name: column.tolist() for name, column in table.columns.items()}


# file, rows, numbers, categories, missing cells; as pandas with the same markers counts them
REAL = {
    "california_housing.csv": (20640, 9, 1, 207),
    "adult-train.csv": (32561, 6, 9, 4262),
    "auto-mpg.data": (398, 8, 1, 6),
    "Concrete_Data.csv": (1030, 9, 0, 0),
    "AmesHousing.csv": (2930, None, None, None),
    "winequality-red.csv": (1599, 12, 0, 0),
    "winequality-white.csv": (4898, 12, 0, 0),
}


@pytest.mark.parametrize("name", REAL)
def test_real_tables_are_read_as_they_are(data_dir, name):
    table = tables.read(data_dir / "tabular" / name)
    num_rows, num_numbers, num_categories, num_missing = REAL[name]
    assert table.num_rows == num_rows
    if num_numbers is None:
        return
    numbers = [column for column in table.columns.values() if tables.is_number(column)]
    others = [column for column in table.columns.values() if not tables.is_number(column)]
    assert (len(numbers), len(others)) == (num_numbers, num_categories)
    missing = sum(int(np.isnan(column).sum()) for column in numbers)
    missing += sum(sum(cell is None for cell in column) for column in others)
    assert missing == num_missing


def test_parquet_holds_what_csv_held(tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pandas.DataFrame(
        {"age": [1.5, None, 3.0], "name": ["a", None, "b"], "flag": [True, False, True], "day": ["2020-01-02"] * 3}
    )
    frame["day"] = pandas.to_datetime(frame["day"])
    frame.to_parquet(tmp_path / "t.parquet")
    read = lists(tables.read(tmp_path / "t.parquet"))
    assert read["name"] == ["a", None, "b"]
    assert read["flag"] == ["True", "False", "True"]
    assert read["day"] == [18263.0] * 3
    np.testing.assert_array_equal(read["age"], [1.5, np.nan, 3.0])
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "t.parquet").read_bytes()[:-30])
    with pytest.raises(InputError, match=r"cut\.parquet: is not a whole Parquet file"):
        tables.read(tmp_path / "cut.parquet")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a,b\n1,x\n2,y\n", {"a": [1.0, 2.0], "b": ["x", "y"]}),
        ("\ufeffa;b\n1;2\n", {"a": [1.0], "b": [2.0]}),  # a byte order mark is no part of the first name
        ('a,b\n"two\nlines",1\n"say ""hi""",2\n', {"a": ["two\nlines", 'say "hi"'], "b": [1.0, 2.0]}),
        ("a\tb\r\n1\t?\r\n2\t3\r\n", {"a": [1.0, 2.0], "b": [None, 3.0]}),
        ("1,2\n3,4\n", {"column_1": [1.0, 3.0], "column_2": [2.0, 4.0]}),
        ("a;b\n1,5;x\n2,5;y\n", {"a": [1.5, 2.5], "b": ["x", "y"]}),  # a decimal comma
        ("a,b\n1_000,x\n2_000,y\n", {"a": ["1_000", "2_000"], "b": ["x", "y"]}),
        ("a,b\n,\nNA,x\n", {"a": [None, None], "b": [None, "x"]}),
        ("a b\n1  2\n3  4\n", {"a": [1.0, 3.0], "b": [2.0, 4.0]}),
        ("1 2 3\n", {"column_1": [1.0], "column_2": [2.0], "column_3": [3.0]}),
    ],
)
def test_what_a_file_says(write, content, expected):
    read = lists(tables.read(write(content)))
    assert read.keys() == expected.keys()
    for name, cells in expected.items():
        ours = [None if isinstance(cell, float) and np.isnan(cell) else cell for cell in read[name]]
        assert ours == cells, name


def test_codes_are_categories_when_asked_and_markers_may_be_added(write):
    path = write("zip,size\n0123,-9\n0456,7\n")
    table = tables.read(path, categories=["zip"], missing=["-9"])
    assert table.columns["zip"].tolist() == ["0123", "0456"]
    np.testing.assert_array_equal(table.columns["size"], [np.nan, 7.0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty; give a file with rows"),
        ("a,b\n", "has a header and no rows"),
        ("a,b\n1,2\n1,2,3\n", "line 3 has 3 cells, the first row has 2"),
        ("a,a\n1,2\n", "columns 1 and 2 are both named 'a'; rename one"),
        (b"a,b\n1,caf\xe9\n", "byte 0xe9 in line 2 is not utf-8; say what it is written in, as encoding latin-1"),
        (b"a,b\n1,\x00\n", "holds NUL characters"),
        ("a,b\n1,inf\n2,3\n", "column 'b' is infinite in 1 rows, the first in line 2"),
        ('a,b\n1,"x\n', "check its quotes"),
        ("a\n" + "1\n" * 20 + "oops\n", "column 'a' has 20 numbers and 1 other cells, the first 'oops' in line 22"),
    ],
)
def test_hostile_files_are_told_in_one_line(write, content, message):
    with pytest.raises(InputError) as caught:
        tables.read(write(content))
    assert message in str(caught.value)
    assert "table.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_files_folders_and_wrong_options_are_told(tmp_path, write):
    path = write("a,b\n1,2\n")
    for call, message in (
        (lambda: tables.read(tmp_path / "none.csv"), "cannot be read"),
        (lambda: tables.read(tmp_path), "cannot be read"),
        (lambda: tables.read(path, separator="/"), "separator: '/' is none of"),
        (lambda: tables.read(path, categories=["c"]), "has no column 'c'; it has a, b"),
        (lambda: tables.read(path, encoding="klingon"), "encoding: 'klingon' is unknown"),
        (lambda: tables.from_arrays({}), "arrays: there are no columns"),
        (lambda: tables.from_arrays({"a": [1], "b": [1, 2]}), "arrays: columns must all be [n]"),
    ):
        with pytest.raises(InputError) as caught:
            call()
        assert message in str(caught.value)


def test_latin_1_and_utf_16_are_read(write):
    assert tables.read(write("a,b\n1,café\n".encode("latin-1")), encoding="latin-1").columns["b"].tolist() == ["café"]
    assert tables.read(write("a,b\n1,café\n".encode("utf-16"))).columns["b"].tolist() == ["café"]


def test_ten_thousand_categories_are_read(write):
    body = "".join(f"user{i},{i}\n" for i in range(10_000))
    table = tables.read(write("name,value\n" + body))
    assert len(set(table.columns["name"])) == 10_000
    assert table.rows(np.array([5])).columns["value"].tolist() == [5.0]
    assert list(table.without(["name"]).columns) == ["value"]
