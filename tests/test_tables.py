"""Tables: any file is read row by row; what is wrong with a file is an error, what is wrong with a row is counted."""

import gzip
import time

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eestudy.data import tables
from eestudy.data.quarantine import DataError

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


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["good", "short", "long", "empty", "open"]), min_size=1, max_size=30),
       st.sampled_from(["good", "short", "long", "empty"]))  # fmt: skip
def test_every_line_is_kept_or_named_whatever_is_refused(tmp_path_factory, kinds, other):
    text = {"good": "1,x", "short": "1", "long": "1,x,y", "empty": "", "open": '1,"x'}
    kinds = [other if kind == "open" and k % 2 else kind for k, kind in enumerate(kinds)] + ["short"]
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


def shop(n=50, changes=()) -> bytes:
    lines = ["item,name", *(f"i{k},Thing {k}" for k in range(2, n + 1))]  # line k is item k
    for line, text in dict(changes).items():
        lines[line - 1] = text
    return "\n".join(lines).encode() + b"\n"


ITEMS = {"item_id": "item", "title": "name"}


@pytest.mark.parametrize(("n", "changes", "bad_lines"), [
    (1000, {12: 'i12,"Thing'}, [12]),
    (50, {6: 'i6,"Thing', 31: 'i31,"A thing, of old"'}, [6]),
    (50, {6: 'i6,"Thing', 31: 'i31,"Thing'}, [6, 31]),
    (50, {6: 'i6,"Thing', 7: "", 31: "i31"}, [6, 7, 31]),
    (50, {6: 'i6,"Thing', 50: 'i50,"Thing'}, [6, 50]),
])
def test_a_quotation_mark_that_is_not_closed_costs_its_own_line_only(tmp_path, n, changes, bad_lines):
    found, bad = read(written(tmp_path, shop(n, changes)), ITEMS)
    assert bad["row"].tolist() == bad_lines and bad["reason"].iloc[0] == "a quotation mark is not closed"
    assert found["line"].tolist() == [line for line in range(2, n + 1) if line not in bad_lines]
    assert found["item_id"].tolist() == [f"i{line}" for line in found["line"]]


def test_a_value_may_span_lines(tmp_path):
    text = b'item,name\n1,"in\ntwo"\n2,"in\n""three""\n, lines"\n3\n\n4,d\n'
    found, bad = read(written(tmp_path, text), ITEMS)
    assert found.to_dict("list") == {"line": [2, 4, 9], "item_id": ["1", "2", "4"],
                                     "title": ["in two", 'in "three" , lines', "d"]}
    assert dict(zip(bad["row"], bad["reason"], strict=True)) == {7: "wrong number of fields", 8: "the line is empty"}


def test_an_open_quotation_mark_in_a_long_file(tmp_path):
    text = shop(300_000, {12: 'i12,"Thing'})  # longer than DuckDB lets a value be
    found, bad = read(written(tmp_path, text), ITEMS)
    assert len(found) == 299_998 and bad["row"].tolist() == [12] and found["line"].iloc[-1] == 300_000


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_empty_lines_do_not_shift_the_others(tmp_path, end):
    found, bad = read(written(tmp_path, end.join([b"user,item", b"1,a", b"", b"2,b", b"3", b"", b"", b"4,d", b""])))
    assert found["line"].tolist() == [2, 4, 8] and found["user_id"].tolist() == ["1", "2", "4"]
    assert dict(zip(bad["row"], bad["reason"], strict=True)) == {
        3: "the line is empty", 5: "wrong number of fields", 6: "the line is empty", 7: "the line is empty"}


def test_line_ends_of_two_kinds(tmp_path):
    found, bad = read(written(tmp_path, b"user,item\r\n1,a\n2,b\r\n3\n4,d\n"))
    assert found["line"].tolist() == [2, 3, 5] and bad["row"].tolist() == [4]


@pytest.mark.parametrize("rows, kept, refused", [
    (b"1,a\n2,\r\n3\n4,d\n5,e\n", [2, 3, 5, 6], [4]),
    (b"1,a\n2,b\r\n3\n4,d\n5\n", [2, 3, 5], [4, 6]), (b"1,a\n2,\r\n\n3\n4,d\n", [2, 3, 6], [4, 5])])  # fmt: skip
def test_line_ends_of_two_kinds_do_not_shift_what_is_refused(tmp_path, rows, kept, refused):
    found, bad = read(written(tmp_path, b"user,item\n" + rows))
    assert found["line"].tolist() == kept and bad["row"].tolist() == refused


def test_lines_are_counted_over_blocks(tmp_path, monkeypatch):
    text = b"a,b\r\n\r\n1,2\n\n\n3"
    for size in (1, 2, 3, 5, 100):
        monkeypatch.setattr(tables, "BLOCK_BYTES", size)
        n_lines, empty, is_mixed = tables._count_lines(written(tmp_path, text))
        assert (n_lines, empty.tolist(), is_mixed) == (6, [2, 4, 5], True)


def test_many_bad_rows_do_not_slow_it_down(tmp_path):
    text = "user,item\n" + "1,a\n1\n" * 60_000
    start = time.perf_counter()
    found, bad = read(written(tmp_path, text.encode()))
    assert time.perf_counter() - start < 15  # rows times bad rows took minutes
    assert found["line"].tolist() == list(range(2, 120_002, 2)) and len(bad) == 60_000


def test_quotation_marks_behind_backslashes(tmp_path):
    text = rb'item;name|"1";"Foo \"bar\" baz"|"2";"x\"; r"|"3";"C:\foo \\"|"4";"open'.replace(b"|", b"\n")
    for more, bad_lines in ((b"", [5]), (b'\n"5";"so"\n"6";"in\ntwo"', [5])):  # at once, and line by line
        found, bad = read(written(tmp_path, text + more), ITEMS, delimiter=";", escape="\\")
        titles = ['Foo "bar" baz', 'x"; r', "C:foo \\", *(["so", "in two"] if more else [])]
        assert found["title"].tolist() == titles and bad["row"].tolist() == bad_lines


@pytest.mark.parametrize(("encoding", "bad_lines"), [("cp1252", [4]), ("utf-16", []), ("Latin1", []), ("UTF8", [4])])
@pytest.mark.parametrize("name", ["r.csv", "r.csv.gz"])
def test_any_encoding_that_python_knows(tmp_path, encoding, bad_lines, name):
    text = "user,item\n1,Été “a”\n2,b\n" if encoding != "Latin1" else "user,item\n1,Été\n2,b\n"
    content = text.encode(encoding) + (b"3,\x81\n" if bad_lines else b"")  # a byte that says nothing there
    found, bad = read(written(tmp_path, content, name), encoding=encoding)
    assert found["item_id"].tolist() == [text[12:].splitlines()[0], "b"] and bad["row"].tolist() == bad_lines


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
