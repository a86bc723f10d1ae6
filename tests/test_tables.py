"""Tables: any file is read row by row; what is wrong with a file is an error, what is wrong with a row is counted."""

import gzip

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eestudy.data import tables
from eestudy.data.reading import DataError

COLUMNS = {"user_id": "user", "item_id": "item"}


def read(path, columns=COLUMNS, **shape):
    with tables.open_database() as database:
        bad = tables.read_table(database, "ratings", tables.TableFile(path, columns, **shape))
        return database.execute("select * from ratings order by line").fetchdf(), bad


def written(folder, content: bytes, name="r.csv"):
    path = folder / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


@pytest.mark.parametrize("name", ["r.csv", "r.csv.gz"])
def test_good_rows_are_read_and_bad_ones_named_by_line(tmp_path, name):
    content = b'user,item\n1,"a, b"\n2\n3,c,d\n4,  e \t f\n5,"open\n'
    found, bad = read(written(tmp_path, content, name))
    assert found.to_dict("list") == {"line": [2, 5], "user_id": ["1", "4"], "item_id": ["a, b", "e f"]}
    assert bad["row"].tolist() == [3, 4, 6] and set(bad["file"]) == {name}
    assert bad["reason"].tolist() == ["wrong number of fields"] * 2 + ["a quotation mark is not closed"]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["good", "short", "long"]), min_size=1, max_size=30))
def test_line_numbers_are_right_whatever_is_refused(tmp_path_factory, kinds):
    text = {"good": "1,x", "short": "1", "long": "1,x,y"}
    path = written(tmp_path_factory.mktemp("t"), "\n".join(["user,item", *(text[kind] for kind in kinds)]).encode())
    wanted = [place for place, kind in enumerate(kinds, 2) if kind == "good"]
    if not wanted:
        with pytest.raises(DataError, match="no usable row"):
            read(path)
        return
    found, bad = read(path)
    assert found["line"].tolist() == wanted
    assert sorted([*wanted, *bad["row"]]) == list(range(2, len(kinds) + 2))


@pytest.mark.parametrize(("content", "message"), [
    (b"", "row 1: the file is empty"),
    (b"\n\n", "row 1: the file is empty"),
    (b"user,thing\n1,2\n", "column 'item' is missing, there are .'user', 'thing'"),
    (b"user,item,item\n1,2,3\n", "column 'item' stands there twice"),
    (b"user,item\n", "row 2: no usable row .it holds a header only"),
    (b"user,item\n1\n2\n", "every row is bad: wrong number of fields"),
])
def test_a_broken_file_is_an_error_that_names_it(tmp_path, content, message):
    with pytest.raises(DataError, match=f"r.csv, .*{message}"):
        read(written(tmp_path, content))


def test_a_file_that_is_no_gzip_is_an_error(tmp_path):
    path = tmp_path / "r.csv.gz"
    path.write_bytes(b"user,item\n1,2\n")
    with pytest.raises(DataError, match="r.csv.gz, row 1: the file cannot be read"):
        read(path)


def test_other_encodings_delimiters_and_no_header(tmp_path):
    found, _ = read(written(tmp_path, "1::Amélie\n2::Été\n".encode("latin-1"), "m.dat"), {"a": "0", "b": "1"},
                    delimiter="::", encoding="latin-1", header=False)  # fmt: skip
    assert found["b"].tolist() == ["Amélie", "Été"] and found["line"].tolist() == [1, 2]
    found, bad = read(written(tmp_path, b"user,item\n1,ok\n2,\xe9t\xe9\n", "u.csv"))
    assert found["item_id"].tolist() == ["ok"] and bad["row"].tolist() == [3]


def test_json_lines(tmp_path):
    lines = b'{"user": 1, "item": "a", "style": {"x": [1]}}\n{"user": 2\n[1]\n\n{"item": null, "user": "3"}\n'
    found, bad = read(written(tmp_path, lines, "r.jsonl.gz"))
    assert found.to_dict("list") == {"line": [1, 5], "user_id": ["1", "3"], "item_id": ["a", ""]}
    assert set(bad["row"]) >= {2, 3} and set(bad["reason"]) == {"not a JSON object"}


def test_parquet(tmp_path):
    path = tmp_path / "r.parquet"
    pd.DataFrame({"user": [1, 2], 'i"t': ["a", None]}).to_parquet(path)
    found, bad = read(path, {"user_id": "user", "item_id": 'i"t'})
    assert found.to_dict("list") == {"line": [1, 2], "user_id": ["1", "2"], "item_id": ["a", ""]} and bad.empty
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DataError, match="cannot be read"):
        read(path)


def test_a_name_of_a_column_is_no_sql(tmp_path):
    path = written(tmp_path, b"user,\"x'); drop table ratings; --\"\n1,2\n")
    found, _ = read(path, {"user_id": "user", "item_id": "x'); drop table ratings; --"})
    assert found["item_id"].tolist() == ["2"]


def test_missing_files_are_named(tmp_path):
    with pytest.raises(DataError, match="holds none of a.csv, b.csv.*https://example.org"):
        tables.find_file(tmp_path, ["a.csv", "b.csv"], "https://example.org")
    (tmp_path / "b.csv.gz").write_bytes(b"")
    assert tables.find_file(tmp_path, ["a.csv", "b.csv"], "x").name == "b.csv.gz"
