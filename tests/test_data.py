"""Data: broken files are named, bad rows are counted, and the split neither leaks nor depends on file order."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eestudy import config, data
from eestudy.data import ml_100k, splits

FRACTIONS = (0.6, 0.2, 0.1, 0.1)
INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
ITEM = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"
USER = "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token"
GOOD_ROWS = ["1\t1\t5\t100", "1\t2\t3\t200", "2\t1\t4\t150", "2\t3\t1\t160"]


def contents(rows=GOOD_ROWS, header=INTER) -> dict[str, bytes]:
    """Three small files: users 1 and 2, items 1 to 3."""
    items = [ITEM, "1\tToy  Story \t1995\tAnimation", "2\tHeat\t1995\tAction", "3\t<b>Alien</b>\t1979\tHorror"]
    users = [USER, "1\t24\tM\ttechnician\t85711", "2\t53\tF\tother\t94043"]
    texts = {"inter": [header, *rows], "item": items, "user": users}
    return {ending: ("\n".join(lines) + "\n").encode() for ending, lines in texts.items()}


def parse(files):
    return data.parse_ml_100k(files, config.load().data)


def random_interactions(rng, n_users=8, n_items=12, n_rows=60, n_seconds=15) -> pd.DataFrame:
    """Distinct (user, item) pairs with many ties in time; ids are contiguous."""
    pairs = rng.choice(n_users * n_items, size=n_rows, replace=False)
    frame = pd.DataFrame({"row": np.arange(n_rows), "user_id": pairs // n_items, "item_id": pairs % n_items})
    frame["rating"] = rng.integers(1, 6, n_rows).astype(np.float32)
    frame["timestamp"] = rng.integers(0, n_seconds, n_rows)
    return frame


def atomic(frame: pd.DataFrame) -> dict[str, bytes]:
    """The three files that hold `frame`, in its order."""
    rows = [f"{u}\t{i}\t{r:g}\t{t}" for u, i, r, t in zip(*(frame[name] for name in
            ("user_id", "item_id", "rating", "timestamp")), strict=True)]  # fmt: skip
    files = {"inter": [INTER, *rows]}
    files["item"] = [ITEM, *(f"{item}\ttitle {item}\t1990\tDrama" for item in sorted(set(frame["item_id"])))]
    files["user"] = [USER, *(f"{user}\t30\tF\tother\t1" for user in sorted(set(frame["user_id"])))]
    return {ending: "\n".join(lines).encode() for ending, lines in files.items()}


def small_config(**changes) -> config.StudyConfig:
    """Settings for frames of `random_interactions`: user 1 is a development user."""
    changes = {"development_users": ("1",), "max_candidates": 2, "n_label_rows": 4, "n_select_rows": 2,
               "n_risk_rows": 2, "n_test_rows": 4, **changes}  # fmt: skip
    cfg = config.load()
    return cfg.model_copy(update={"data": cfg.data.model_copy(update=changes)})


# Reading


def test_good_files_are_read_whole():
    raw = parse(contents())
    assert len(raw["interactions"]) == 4 and raw["quarantine"].empty
    assert raw["items"]["title"].tolist() == ["Toy Story", "Heat", "<b>Alien</b>"]
    assert raw["interactions"]["rating"].tolist() == [5, 3, 4, 1]


def test_windows_line_ends_byte_order_mark_and_column_order_do_not_matter():
    files = contents()
    files["inter"] = b"\xef\xbb\xbf" + files["inter"].replace(b"\n", b"\r\n")
    swapped = ["\t".join(row.split("\t")[::-1]) for row in GOOD_ROWS]
    other = contents(swapped, "\t".join(INTER.split("\t")[::-1]))
    for changed in (files, other):
        pd.testing.assert_frame_equal(parse(changed)["interactions"], parse(contents())["interactions"])


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        (INTER.replace("\trating:float", ""), ["1\t1\t100"], "row 1: column 'rating:float' is missing.*as rating"),
        (INTER.replace("rating:float", "rating:token"), GOOD_ROWS, "row 1: column 'rating:float' .*'rating:token'"),
        (INTER + "\trating:float", ["1\t1\t5\t100\t5"], "row 1: column 'rating:float' stands there twice"),
        (INTER, [], "row 2: no usable row .it holds a header only.. Fetch"),
        (INTER, ["1\t1\tfive\t100"], "row 2: no usable row is left. 1 of 1 rows: rating is not a number. Write"),
        (INTER, ["9\t1\t5\t100"], "row 2: no usable row is left. 1 of 1 rows: unknown user. Add the user"),
    ],
)
def test_a_broken_file_is_an_error_that_names_file_row_and_remedy(header, rows, message):
    with pytest.raises(data.DataError, match=f"^ml-100k.inter, {message}"):
        parse(contents(rows, header))


@pytest.mark.parametrize("empty", [b"", b"\n \n"])
def test_an_empty_file_is_an_error(empty):
    with pytest.raises(data.DataError, match="^ml-100k.item, row 1: the file is empty. Fetch"):
        parse({**contents(), "item": empty})


def test_a_row_in_a_broken_encoding_is_named():
    files = contents()
    files["item"] = files["item"].replace(b"Heat", b"H\xe9at")
    bad = parse(files)["quarantine"].set_index("file")[["row", "reason"]]
    assert bad.loc["ml-100k.item"].tolist() == [3, "not valid text in the file's encoding"]
    assert bad.loc["ml-100k.inter"].tolist() == [3, "unknown item"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("1\t3\t5", "wrong number of fields"),
        ("1\t3\t5\t100\textra", "wrong number of fields"),
        ("", "the line is empty"),
        ("1\t3\tfive\t100", "rating is not a number"),
        ("1\t3\tnan\t100", "rating is not a number"),
        ("1\t3\t5\tinf", "timestamp is neither a number nor a date"),
        ("1\t3\t5\t-1", "timestamp is not whole seconds"),
        ("1\t3\t5\t100.5", "timestamp is not whole seconds"),
        ("\t3\t5\t100", "user_id is empty"),
        ("1\t \t5\t100", "item_id is empty"),
        ("1\t3\t6\t100", "rating outside 1 to 5"),
        ("1\t3\t0\t100", "rating outside 1 to 5"),
        ("7\t3\t5\t100", "unknown user"),
        ("1\t7\t5\t100", "unknown item"),
        ("1\t1\t2\t99", "duplicate user and item"),
    ],
)
def test_a_bad_row_goes_to_quarantine_with_file_row_reason_and_remedy(row, reason):
    raw = parse(contents([*GOOD_ROWS[:2], row, *GOOD_ROWS[2:]]))
    assert len(raw["interactions"]) == 4
    (record,) = raw["quarantine"].to_dict("records")
    assert (record["file"], record["row"], record["reason"]) == ("ml-100k.inter", 4, reason)
    assert record["remedy"].endswith(".")


def test_a_bad_row_of_the_item_file_is_counted_and_its_interactions_too():
    files = contents()
    files["item"] = files["item"].replace(b"3\t<b>Alien</b>\t1979\tHorror", b"3\tAlien")
    reasons = parse(files)["quarantine"].set_index("file")["reason"].to_dict()
    assert reasons == {"ml-100k.item": "wrong number of fields", "ml-100k.inter": "unknown item"}


def test_summary_counts_every_quarantined_row():
    raw = parse(contents([*GOOD_ROWS, *["1\t3\t9\t1"] * 7, "1\t7\t5\t100"]))
    summary = data.quarantine_summary(raw["quarantine"])
    assert sum(entry["n_rows"] for entry in summary) == 8
    assert summary[0]["rows"] == [6, 7, 8, 9, 10]
    assert data.quarantine_summary(parse(contents())["quarantine"]) == []


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(alphabet="12359\tx.- ", max_size=12), max_size=15))
def test_every_line_is_either_kept_or_quarantined(lines):
    raw = parse(contents([*GOOD_ROWS, *lines, "x"]))
    seen = sorted([*raw["interactions"]["line"], *raw["quarantine"]["row"]])
    assert seen == list(range(2, len(lines) + 7))


def test_the_rules_of_own_data_hold_here_too():
    rows = ["1\t1\t5\t100", "1\t2\t0\t110", "1\t3\t4\t120", "2\t1\t4\t150", "2\t3\t1\t160", "2\t2\t3\t170"]
    settings = config.load().data.model_copy(update={"zero_is_no_rating": True, "min_ratings": 2, "max_user_rows": 3})
    raw = data.parse_ml_100k(contents(rows), settings)
    assert raw["interactions"]["line"].tolist() == [2, 4, 5, 6] and raw["quarantine"].empty
    assert raw["left_out"]["n_rows"].tolist() == [1, 0, 1]


def test_of_two_ratings_the_latest_stays_whatever_the_order():
    for rows in (["1\t1\t2\t500", *GOOD_ROWS], [*GOOD_ROWS, "1\t1\t2\t500"]):
        frame = parse(contents(rows))["interactions"]
        assert frame.query("user_id == '1' and item_id == '1'")["rating"].tolist() == [2]


def test_ids_are_sorted_by_value_and_contiguous():
    assert data.sorted_ids(["10", "9", "b", "a", "9"]) == ["9", "10", "a", "b"]
    frames = data.index_ids(parse(contents()))
    assert frames["items"]["item_id"].tolist() == [0, 1, 2]
    assert frames["interactions"].columns.tolist() == ["row", "user_id", "item_id", "rating", "timestamp"]


def test_keeping_fewer_users_reindexes_items_and_keeps_titles():
    raw = parse(atomic(random_interactions(np.random.default_rng(0))))
    frames = data.prepare(small_config(max_users=3), raw)
    interactions = frames["interactions"]
    assert interactions["user_id"].nunique() == len(frames["users"]) == 3
    assert sorted(set(interactions["item_id"])) == list(range(len(frames["items"])))
    assert (frames["items"]["title"] == "title " + frames["items"]["source_item_id"]).all()


# Splits


def slow_split(frame: pd.DataFrame, fractions) -> list[str]:
    """`split_by_time` as a loop over users."""
    frame = frame.assign(tie=splits.mix(frame["user_id"], frame["item_id"], splits.SPLIT_SEED))
    result = {}
    for _, rows in frame.groupby("user_id"):
        rows = rows.sort_values(["timestamp", "tie"])
        for place, row in enumerate(rows["row"]):
            ends = [int(np.floor(round(sum(fractions[: k + 1]) * len(rows), 6) + 0.5)) for k in range(4)]
            result[row] = config.SPLITS[next(k for k, end in enumerate(ends) if place < end)]
    return [result[row] for row in frame["row"]]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 90))
def test_split_equals_a_loop_and_does_not_depend_on_file_order(seed, n_rows):
    rng = np.random.default_rng(seed)
    frame = random_interactions(rng, n_rows=n_rows)
    split = data.split_by_time(frame, FRACTIONS)
    assert split.tolist() == slow_split(frame, FRACTIONS)
    order = rng.permutation(n_rows)
    assert (data.split_by_time(frame.iloc[order], FRACTIONS) == split[order]).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_everything_prepared_is_the_same_when_the_file_is_shuffled(seed):
    rng = np.random.default_rng(seed)
    frame = random_interactions(rng)
    tables = []
    for order in (np.arange(len(frame)), rng.permutation(len(frame))):
        frames = data.prepare(small_config(), parse(atomic(frame.iloc[order])))
        table = frames["interactions"].merge(frames["split"], on="row").drop(columns="row")
        tables.append(table.sort_values(["user_id", "item_id"]).reset_index(drop=True))
    pd.testing.assert_frame_equal(*tables)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_no_row_is_in_two_parts_and_parts_follow_each_other_in_time(seed):
    frame = random_interactions(np.random.default_rng(seed))
    split = data.prepare(small_config(), parse(atomic(frame)))["split"]
    assert split["row"].is_unique and len(split) == len(frame)
    assert split["split"].isin(config.SPLITS).all()
    place = split["split"].map({"graph": 0, "label": 1, "validation": 2, "test": 3, "development": 3})
    spans = frame.assign(place=place).groupby(["user_id", "place"])["timestamp"].agg(["min", "max"])
    for _, span in spans.groupby("user_id"):
        assert (span["max"].to_numpy()[:-1] <= span["min"].to_numpy()[1:]).all()


def test_test_ratings_reach_nothing_but_their_own_rows():
    frame = random_interactions(np.random.default_rng(1))
    before = data.prepare(small_config(), parse(atomic(frame)))
    is_test = (before["split"]["split"] == "test").to_numpy()
    changed = frame.assign(rating=np.where(is_test, 6 - frame["rating"], frame["rating"]))
    after = data.prepare(small_config(), parse(atomic(changed)))
    pd.testing.assert_frame_equal(before["split"], after["split"])
    pd.testing.assert_frame_equal(before["interactions"][~is_test], after["interactions"][~is_test])


@pytest.mark.parametrize(
    ("n_rows", "sizes"),
    [(1, [1, 0, 0, 0]), (2, [1, 1, 0, 0]), (3, [2, 0, 1, 0]), (5, [3, 1, 1, 0]), (20, [12, 4, 2, 2])],
)
def test_users_with_few_rows_follow_the_rounding_rule(n_rows, sizes):
    ends = splits.part_ends([n_rows], FRACTIONS)[0]
    assert np.diff(ends, prepend=0).tolist() == sizes


def test_fractions_that_do_not_sum_to_one_are_refused():
    with pytest.raises(ValueError, match="sum to 1"):
        splits.part_ends([10], (0.6, 0.2, 0.1, 0.2))


def test_development_users_are_never_tested_nor_judged_there():
    frame = random_interactions(np.random.default_rng(2), n_users=4, n_items=30, n_rows=100)
    frames = data.prepare(small_config(n_test_rows=None), parse(atomic(frame)))
    split = frames["split"].assign(user=frames["interactions"]["user_id"])
    development = frames["users"].query("source_user_id == '1'")["user_id"].item()
    assert set(split.query("split == 'development'")["user"]) == {development}
    assert development not in set(split.query("split == 'test'")["user"])
    assert not split.query("split in ('graph', 'development')")["judged"].any()
    assert split.query("split == 'test'")["judged"].all()


def test_halves_divide_users():
    rng = np.random.default_rng(3)
    user_id, split = rng.integers(0, 30, 400), rng.choice(["graph", "validation"], 400)
    half = data.assign_halves(user_id, split)
    assert (half[split == "graph"] == "").all()
    selected, risk = (set(user_id[half == name]) for name in ("select", "risk"))
    assert not selected & risk and abs(len(selected) - len(risk)) <= 1


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5))
def test_requests_are_consecutive_rows_of_one_user_and_part(seed, max_candidates):
    frame = random_interactions(np.random.default_rng(seed), n_users=3, n_rows=30)
    frame["split"] = data.split_by_time(frame, FRACTIONS)
    frame = pd.concat([frame, data.make_requests(frame, frame["split"], max_candidates)], axis=1)
    assert (frame.query("split == 'graph'")[["request_id", "request_timestamp"]] == -1).all(axis=None)
    frame = frame[frame["split"] != "graph"]
    assert sorted(set(frame["request_id"])) == list(range(frame["request_id"].nunique()))
    for _, request in frame.groupby("request_id"):
        assert len(request) <= max_candidates and len(request.groupby(["user_id", "split"])) == 1
        assert (request["request_timestamp"] == request["timestamp"].min()).all()
    for _, part in frame.groupby(["user_id", "split"]):
        ends = part.groupby("request_id")["timestamp"].agg(["min", "max", "size"])
        assert (ends["size"].iloc[:-1] == max_candidates).all()
        assert (ends["max"].to_numpy()[:-1] <= ends["min"].to_numpy()[1:]).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 60), st.booleans())
def test_samples_are_whole_requests_just_enough_of_them(seed, n_rows, spread_users):
    rng = np.random.default_rng(seed)
    request_id = np.sort(rng.integers(0, 15, 50))
    user_id = request_id // 3
    drawn = splits.sample_requests(request_id, user_id, n_rows, seed, spread_users)
    chosen = set(request_id[drawn])
    assert not chosen & set(request_id[~drawn])
    sizes = [int((request_id == request).sum()) for request in chosen]
    assert drawn.sum() >= min(n_rows, 50)
    assert n_rows >= 50 or drawn.sum() - max(sizes) < n_rows
    per_user = pd.Series(sorted(chosen)).floordiv(3).value_counts()
    if spread_users and per_user.max() > 1:  # a second request only once every user has one
        assert set(per_user.index) == set(user_id)


def test_the_seed_draws_label_rows_only():
    frame = random_interactions(np.random.default_rng(4), n_users=20, n_items=30, n_rows=500)
    raw = parse(atomic(frame))
    one, two = (data.prepare(small_config().model_copy(update={"seed": seed}), raw)["split"] for seed in (0, 1))
    is_label = one["split"] == "label"
    assert (one["judged"] != two["judged"])[is_label].any()
    pd.testing.assert_frame_equal(one[~is_label], two[~is_label])


def test_global_split_follows_one_clock_and_reports_unseen_users():
    frame = random_interactions(np.random.default_rng(5))
    split = data.time_split(frame, FRACTIONS)
    ends = frame.groupby(split)["timestamp"].agg(["min", "max"]).loc[list(config.SPLITS[:4])]
    assert (ends["max"].to_numpy()[:-1] <= ends["min"].to_numpy()[1:]).all()
    assert data.unseen_user_share([0, 0, 1, 2], ["graph", "test", "test", "test"]) == pytest.approx(2 / 3)
    assert data.unseen_user_share(frame["user_id"], data.split_by_time(frame, FRACTIONS)) == 0


def test_the_hash_is_fixed():
    assert splits.mix(np.array([1, 2]), 3, 0).tolist() == splits.mix(np.array([1, 2]), np.array([3, 3]), 0).tolist()
    assert splits.mix(np.array([1]), 0).tolist() == [int(splits.mix(1, 0)[0])]
    assert len(set(splits.mix(np.arange(1000), 0).tolist())) == 1000


def test_an_unknown_dataset_is_refused():
    with pytest.raises(data.DataError, match="no adapter for 'nothing'"):
        data.prepare(small_config(name="nothing"))


def test_the_real_files_are_read_without_loss():
    assets = pytest.importorskip("eestudy.assets")
    try:
        assets.read_member(ml_100k.ASSET, f"{ml_100k.FOLDER}.user")
    except Exception as error:  # whatever keeps the wheel from us, its own tests judge it
        pytest.skip(f"the MovieLens wheel is not here: {error}")
    frames = data.prepare(config.load())
    assert [len(frames[name]) for name in ("interactions", "users", "items", "quarantine")] == [100_000, 943, 1682, 0]
    judged = frames["split"][frames["split"]["judged"]].assign(user=frames["interactions"]["user_id"])
    test = judged[judged["split"] == "test"]
    assert len(test) >= 2500 and test["user"].nunique() >= 300
