"""Every dataset's files as their owners publish them, cut small: what is read, what is set aside, what is left out."""

import gzip
import json
import zipfile

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eestudy import artifacts, assets, config, data, metrics, prompts, retriever
from eestudy.data import __main__ as command
from eestudy.data import cleaning, movielens, negatives, splits, tables

BOOKS = ["ISBN,Book-Title,Book-Author,Year-Of-Publication,Publisher,source"]
BOOKS += [f'{isbn},"{title}",Somebody,1999,P,x' for isbn, title in
          (("01X", "Tom &amp; Jerry"), ("02", "CafÃ© Noir"), ("03", "Three, or more"), ("04", ""))]  # fmt: skip
RATED = ['"User-ID";"ISBN";"Book-Rating"', '"7";" 01x";"8"', '"7";"02";"0"', '"7";"03";"11"', '"8";"01X";"3"',
         '"8";"01x ";"9"', '"8";"99";"5"', '"9";"02";"10"', '"9";"04";"6"', '"9";"03"', '"9";"03";"five"']  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty data folder."""
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    return tmp_path


def settings_of(name: str, **changes) -> config.DataConfig:
    return config.load(name).data.model_copy(update=changes)


def put(folder, dataset: str, **files: list[str]) -> None:
    """Write files of lines, gzipped where the name says so (dots as two underscores)."""
    (folder / dataset).mkdir()
    for name, lines in files.items():
        path = folder / dataset / name.replace("__", ".")
        content = "\n".join(lines).encode("utf-8") + b"\n"
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def reasons(raw) -> dict[str, list[int]]:
    return raw["quarantine"].groupby("reason")["row"].agg(list).to_dict()


# Book-Crossing


def write_books(folder):
    put(folder, "bookcrossing", **{"BX-Book-Ratings__csv__gz": RATED, "BX-Books-titles__csv": BOOKS})


def test_books_are_cleaned_by_stated_rules(folder):
    write_books(folder)
    raw = data.read(settings_of("bookcrossing", min_ratings=1))
    assert raw["items"]["title"].tolist() == ["Tom & Jerry", "Café Noir"]
    kept = raw["interactions"]
    assert list(zip(kept["user_id"], kept["item_id"], kept["rating"], kept["line"], strict=True)) == [
        ("7", "01X", 8, 2), ("8", "01X", 3, 5), ("9", "02", 10, 8)]  # fmt: skip
    assert reasons(raw) == {
        "title is empty": [5], "rating outside 1 to 10": [4], "duplicate user and item": [6], "unknown item": [7, 9],
        "wrong number of fields": [10], "rating is not a number": [11],
    }  # fmt: skip
    assert raw["left_out"].to_dict("records")[0] == {"rule": "a rating of 0: not rated", "n_rows": 1}


def test_nothing_is_lost(folder):
    write_books(folder)
    raw = data.read(settings_of("bookcrossing", min_ratings=1))
    of_ratings = raw["quarantine"]["file"].str.startswith("BX-Book-Ratings").sum()
    assert len(raw["interactions"]) + of_ratings + raw["left_out"]["n_rows"].sum() == len(RATED) - 1


def test_zeros_are_dislikes_where_that_is_the_rule(folder):
    write_books(folder)
    raw = data.read(settings_of("bookcrossing", min_ratings=1, zero_is_no_rating=False, rating_range=(0.0, 10.0)))
    assert sorted(raw["interactions"]["rating"]) == [0, 3, 8, 10]


OFFICIAL_BOOKS = [r'"ISBN";"Book-Title";"Book-Author";"Year-Of-Publication";"Publisher";"Image-URL-S"',
                  r'"01X";"Foo \"bar\" baz";"Somebody";"1999";"P";"http://x"',
                  r'"02";"Caf\351 \"; r";"Somebody; else";"1999";"P \"Q\"";"http://x"',
                  r'"03";"A \"broken\";Somebody";"1999";"P";"http://x"']  # fmt: skip


def test_the_official_titles_escape_quotation_marks_by_backslashes(folder):
    put(folder, "bookcrossing", **{"BX-Book-Ratings__csv": RATED})
    content = "\n".join(OFFICIAL_BOOKS).replace(r"\351", "é").encode("latin-1")
    (folder / "bookcrossing" / "BX-Books.csv").write_bytes(content)
    raw = data.read(settings_of("bookcrossing", min_ratings=1))
    assert raw["items"]["title"].tolist() == ['Foo "bar" baz', 'Café "; r']
    of_titles = raw["quarantine"][raw["quarantine"]["file"] == "BX-Books.csv"]
    assert of_titles[["row", "reason"]].values.tolist() == [[4, "wrong number of fields"]]


@pytest.mark.parametrize(("written", "meant"), [
    (r'"\O\"" Is for Outlaw"""', '"O" Is for Outlaw'),
    (r'"A Child Called \It\"": One Child Survives"""', 'A Child Called "It": One Child Survives'),
    (r'"The Sequel to \Gone With the Wind\"""""', 'The Sequel to "Gone With the Wind"'),
    ('"Plain ""quoted"""', 'Plain "quoted"'),
])  # fmt: skip
def test_quotation_marks_of_a_copy_are_mended(folder, written, meant):
    put(folder, "bookcrossing", **{"BX-Book-Ratings__csv": RATED,
                                   "BX-Books-titles__csv": [*BOOKS[:1], f"01X,{written},A,1999,P,x", *BOOKS[2:]]})
    assert data.read(settings_of("bookcrossing", min_ratings=1))["items"]["title"].tolist()[0] == meant


def test_a_missing_file_is_named_with_its_home(folder):
    with pytest.raises(data.DataError, match="BX-Book-Ratings.csv.*informatik.uni-freiburg.de.*DATA_DIR"):
        data.read(settings_of("bookcrossing"))


# MovieLens-1M


def test_the_wheel_and_the_official_files_say_the_same(folder, monkeypatch):
    put(folder, "wheel", **{
        "ml-1m__inter": ["user_id:token\titem_id:token\trating:float\ttimestamp:float",
                         "1m_1\tHeat (1995)\t5\t978300760", "1m_2\tBabe (1995)\t3\t978300761"],
        "ml-1m__item": ["item_id:token\tmovie_title:token\trelease_year:float\tgenre:token",
                        "Heat (1995)\tHeat\t1995\tAction Crime", "Babe (1995)\tBabe\t1995\tDrama"],
        "ml-1m__user": ["user_id:token\tage:float\tgender:token\toccupation:float\tzip_code:token",
                        "1m_1\t1\tF\t10\t48067", "1m_2\t56\tM\t16\t70072"],
    })  # fmt: skip
    monkeypatch.setattr(assets, "extract_member", lambda _, member: folder / "wheel" / member.rsplit("/", 1)[1])
    wheel = data.read(settings_of("ml-1m"))
    put(folder, "ml-1m", **{
        "ratings__dat": ["1::6::5::978300760", "2::34::3::978300761"],
        "movies__dat": ["6::Heat (1995)::Action|Crime", "34::Babe (1995)::Drama"],
        "users__dat": ["1::F::1::10::48067", "2::M::56::16::70072"],
    })  # fmt: skip
    official = data.read(settings_of("ml-1m"))
    for name in ("users", "items"):
        pd.testing.assert_frame_equal(wheel[name], official[name])
    columns = ["user_id", "item_id", "rating", "timestamp"]
    pd.testing.assert_frame_equal(wheel["interactions"][columns], official["interactions"][columns])
    with zipfile.ZipFile(folder / "ml-1m/ml-1m.zip", "w") as archive:
        for name in ("ratings", "movies", "users"):
            archive.write(folder / f"ml-1m/{name}.dat", f"ml-1m/{name}.dat")
            (folder / f"ml-1m/{name}.dat").unlink()
    zipped = data.read(settings_of("ml-1m"))
    for name in ("users", "items", "interactions"):
        pd.testing.assert_frame_equal(zipped[name], official[name])
    assert wheel["users"]["age"].tolist() == ["under 18", "56 or more"]
    assert wheel["users"]["occupation"].tolist() == ["K-12 student", "self-employed"]


@pytest.mark.parametrize("damage", ["cut short", "a file is missing"])
def test_an_archive_that_cannot_be_read_is_named(folder, damage):
    (folder / "ml-1m").mkdir()
    path = folder / "ml-1m/ml-1m.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ml-1m/ratings.dat", "1::6::5::978300760")
    if damage == "cut short":
        path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(data.DataError, match="ml-1m.zip.*or remove it"):
        data.read(settings_of("ml-1m"))


def test_unknown_and_repeated_movies(folder):
    put(folder, "ml-1m", **{
        "ratings__dat": ["1::6::5::978300760", "1::7::4::978300761", "2::34::3::978300762", "2::35::3::978300763"],
        "movies__dat": ["6::Heat (1995)::Action|Crime", "34::Babe (1995)::Drama", "6::Heat (1996)::War", "35::::War"],
        "users__dat": ["1::F::1::10::48067", "2::M::56::16::70072"],
    })  # fmt: skip
    raw = data.read(settings_of("ml-1m"))
    assert raw["interactions"]["item_id"].tolist() == ["Heat (1995)", "Babe (1995)"]
    assert reasons(raw) == {"duplicate item": [3], "title is empty": [4], "unknown item": [2, 4]}


def test_every_code_has_a_word():
    assert len(movielens.OCCUPATIONS) == 21 and len(movielens.AGES) == 7


# Amazon


def review(user, item, stars, when) -> str:
    return json.dumps({"reviewerID": user, "asin": item, "overall": stars, "unixReviewTime": when, "style": {"a": 1}})


def reviews_of(tmp_path, form: str, **changes) -> config.StudyConfig:
    """Amazon Beauty's reviews, by a toml that names their form and nothing else that it need not."""
    path = tmp_path / "reviews.toml"
    lines = [f"{field} = {json.dumps(value)}" for field, value in {"form": form, **changes}.items()]
    path.write_text("\n".join(['[data]', 'dataset = "amazon-beauty"', *lines]))
    return config.load(str(path))


def test_reviews_of_2014_have_metadata_that_is_not_json(folder):
    put(folder, "amazon-beauty", reviews_Beauty_5__json__gz=[review("u", "i", 5.0, 100), review("u", "j", 2.0, 90),
                                                             "{broken"],
        meta_Beauty__json__gz=["{'asin': 'i', 'title': 'It\\'s a soap'}", "{'asin': 'j', 'title': 'Comb'}",
                               "__import__('os')", "{'asin': 'k'}", '{"asin": "l", "title": null}'])  # fmt: skip
    raw = data.read(reviews_of(folder, "2014").data)
    assert raw["items"]["title"].tolist() == ["It's a soap", "Comb"]
    assert raw["interactions"]["timestamp"].tolist() == [100, 90]
    assert reasons(raw) == {"not a JSON object": [3, 3], "title is empty": [4, 5]}


def test_reviews_of_2018_and_of_2023(folder):
    put(folder, "amazon-beauty", All_Beauty_5__json=[review("u", "i", 5.0, 100), review("v", "i", 7.0, 90)],
        meta_All_Beauty__json=[json.dumps({"asin": "i", "title": "Soap"})], All_Beauty__csv=[
            "user_id,parent_asin,rating,timestamp", "u,i,5.0,1547589356557", "v,i,4.0,soon"],
        meta_All_Beauty__jsonl=[json.dumps({"parent_asin": "i", "title": "Soap"})])  # fmt: skip
    assert reasons(data.read(reviews_of(folder, "2018").data)) == {"rating outside 1 to 5": [2]}
    of_2023 = data.read(reviews_of(folder, "2023").data)
    assert of_2023["interactions"]["timestamp"].tolist() == [1547589356]
    assert reasons(of_2023) == {"timestamp is neither a number nor a date": [3]}


SCRAP = 'var aPageStart = (new Date()).getTime(); var ue_t0=ue_t0||+new Date();'


@pytest.mark.parametrize(("title", "wanted"), [
    ('<span class="a-size-medium">Rose  <b>Soap</b></span>', "Rose Soap"), (SCRAP, None), (None, None), (17, "17"),
    (f"<script>{SCRAP}</script> Comb", "Comb"), (f"<script type='text/javascript'>{SCRAP}", None), ("<br>", None),
    ("Soap & Co. <3 (var. 2) > all", "Soap & Co. <3 (var. 2) > all"), ("Function (blue)", "Function (blue)"),
])  # fmt: skip
@pytest.mark.parametrize("form", ["2014", "2018"])
def test_titles_are_what_people_read(folder, form, title, wanted):
    reviews = [review("u", item, 5.0, 100) for item in ("i", "j")]
    meta = [json.dumps({"asin": "i", "title": title}), json.dumps({"asin": "j", "title": "Comb"})]
    put(folder, "amazon-beauty", r__json=reviews, m__json=meta)
    raw = data.read(reviews_of(folder, form, files=["r.json", "m.json"]).data)
    assert raw["items"].set_index("item_id")["title"].get("i") == wanted
    assert reasons(raw) == ({} if wanted else {"title is empty": [1], "unknown item": [1]})


def write_reviews(folder, form: str, n_users=60, per_user=12, n_items=30) -> None:
    """A cut of a form's official files."""
    rng, rated = np.random.default_rng(0), []
    for user in range(n_users):
        for place, item in enumerate(rng.permutation(n_items)[:per_user]):
            stars, when = float(rng.integers(2, 6)), 1_400_000_000 + 86_400 * place + user
            rated.append(f"u{user},i{item},{stars},{when}123" if form == "2023" else
                         review(f"u{user}", f"i{item}", stars, when))  # fmt: skip
    key = "parent_asin" if form == "2023" else "asin"
    titles = [json.dumps({key: f"i{item}", "title": f"Soap no. {item}"}) for item in range(n_items)]
    category = "Beauty" if form == "2014" else "All_Beauty"
    names = {"2023": (f"{category}__csv__gz", f"meta_{category}__jsonl__gz")}.get(form, (
        f"{'reviews_' if form == '2014' else ''}{category}_5__json__gz", f"meta_{category}__json__gz"))  # fmt: skip
    head = ["user_id,parent_asin,rating,timestamp"] if form == "2023" else []
    put(folder, "amazon-beauty", **{names[0]: head + rated, names[1]: titles})


def assert_stars_in_every_part(frames, n_users: int) -> None:
    rows = frames["interactions"].merge(frames["split"], on="row")
    assert set(rows["split"]) == {"graph", "label", "validation", "test"} and rows["observed"].all()
    assert rows.groupby("split")["label"].agg(set).map(lambda labels: labels == {0, 1}).all()
    assert len(frames["users"]) == n_users and (frames["items"]["title"] != "").all()
    assert rows["timestamp"].between(9e8, 2e9).all()  # seconds
    judged = rows[rows["split"] != "graph"]
    assert (judged["request_timestamp"] == judged.groupby("request_id")["timestamp"].transform("min")).all()


@pytest.mark.parametrize("form", ["2014", "2018", "2023"])
def test_reviews_are_prepared_with_stars_and_times(folder, form):
    write_reviews(folder, form)
    frames = data.prepare(reviews_of(folder, form))
    assert_stars_in_every_part(frames, 60)
    assert len(frames["interactions"]) == 720 and frames["quarantine"].empty


@pytest.mark.parametrize(("form", "part", "name", "n_users"), [
    ("2018", "all-beauty-2018", "All_Beauty_5.json.gz", 991), ("2023", "all-beauty-2023", "All_Beauty.csv.gz", 253)])
def test_the_real_reviews_are_prepared(tmp_path, form, part, name, n_users):
    reviews = artifacts.data_dir() / "amazon-beauty" / part / name
    if not reviews.is_file():
        pytest.skip(f"{reviews} is not here")
    meta = reviews.with_name("meta_All_Beauty.jsonl.gz")
    if not meta.is_file():  # titles are no part of that download
        meta = tmp_path / "meta.json"
        with gzip.open(reviews, "rt") as lines:
            items = sorted({json.loads(line)["asin"] for line in lines})
        meta.write_text("".join(json.dumps({"asin": item, "title": f"Item {item}"}) + "\n" for item in items))
    frames = data.prepare(reviews_of(tmp_path, form, files=[str(reviews), str(meta)]))
    assert_stars_in_every_part(frames, n_users)
    assert set(frames["quarantine"]["reason"]) <= {"duplicate user and item"}


def sequences(n_users=60, n_items=25, seed=0) -> list[str]:
    rng, lines = np.random.default_rng(seed), ["user_id,item_id,position"]
    popularity = 1 / np.arange(1, n_items + 1)
    for user in range(n_users):
        items = rng.choice(n_items, size=6, replace=False, p=popularity / popularity.sum())
        lines += [f"u{user},i{item},{place}" for place, item in enumerate(items)]
    return lines


def prepare_sequences(folder, **changes):
    titles = ["item_id,title,category", *(f'i{item},"Thing, no. {item}",Toys' for item in range(25))]
    put(folder, "amazon-video-games", interactions__csv__gz=sequences(), items__csv__gz=titles)
    cfg = config.load("amazon-video-games", "smoke")
    cfg = cfg.model_copy(update={"data": cfg.data.model_copy(update={"max_users": None, **changes})})
    return cfg, data.prepare(cfg)


def test_the_last_three_rows_are_label_validation_and_test(folder):
    _, frames = prepare_sequences(folder)
    rows = frames["interactions"].merge(frames["split"], on="row")
    observed = rows[rows["observed"]]
    by_part = observed.groupby("split")["timestamp"].agg(set).to_dict()
    assert by_part == {"graph": {0, 1, 2}, "label": {3}, "validation": {4}, "test": {5}}
    assert (observed["label"] == 1).all() and (rows.loc[~rows["observed"], "label"] == 0).all()


def test_a_negative_stands_beside_every_target_and_was_not_taken_before(folder):
    _, frames = prepare_sequences(folder)
    rows = frames["interactions"].merge(frames["split"], on="row")
    judged = rows[rows["split"] != "graph"]
    assert (judged.groupby(["user_id", "split"])["label"].agg(list).map(sorted).map(tuple) == (0, 1)).mean() > 0.95
    assert judged.groupby("request_id")["user_id"].nunique().eq(1).all()
    order = rows["split"].map({part: place for place, part in enumerate(config.SPLITS)})
    both = rows[rows["observed"]].assign(order=order).merge(
        rows[~rows["observed"]].assign(order=order), on=["user_id", "item_id"], suffixes=("", "_drawn"))  # fmt: skip
    assert (both["order"] > both["order_drawn"]).all()  # what is taken later is nothing that may be known
    assert (judged["request_timestamp"] == splits.FOREVER).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_popularity_alone_does_not_tell_negatives_from_targets(seed):
    rng, n_users, n_items = np.random.default_rng(seed), 4000, 300
    popularity = rng.pareto(1.2, n_items) + 0.1
    popularity /= popularity.sum()
    user_id, item_id = np.arange(n_users), rng.choice(n_items, n_users, p=popularity)
    known = np.sort(user_id * n_items + item_id)
    drawn = negatives.draw_negatives(user_id, user_id, item_id, known, n_items, seed)
    kept = drawn >= 0
    degree = np.bincount(item_id, minlength=n_items)
    score = np.concatenate([degree[item_id[kept]], degree[drawn[kept]]])
    label = np.repeat([1, 0], kept.sum())
    assert kept.mean() > 0.9 and abs(metrics.auc(label, score) - 0.5) < 0.03 + 2 * popularity.max()


def test_no_other_user_means_no_negative():
    drawn = negatives.draw_negatives([0, 0], [0, 0], [1, 2], np.array([1, 2]), 3, 0)
    assert drawn.tolist() == [-1, -1]


# Evidence without stars


def test_matches_equal_a_loop_over_pairs(folder):
    _, frames = prepare_sequences(folder)
    rng = np.random.default_rng(3)
    user_emb, item_emb = rng.standard_normal((60, 4)), rng.standard_normal((25, 4))
    similar = retriever.graph_retriever(user_emb, item_emb)
    rows = frames["interactions"].merge(frames["split"][["row", "split", "request_timestamp"]], on="row")
    test, known = rows[rows["split"] == "test"], rows[rows["observed"] & rows["split"].isin(("graph", "label"))]
    found = retriever.match_evidence(test, known, similar, 3)
    unit = lambda x: x / np.linalg.norm(x)  # noqa: E731
    for row, (_, asked) in zip(found.itertuples(), test.iterrows(), strict=True):
        own = known.loc[known["user_id"] == asked["user_id"], "item_id"]
        target = unit(item_emb[asked["item_id"]])
        user, takers = unit(user_emb[asked["user_id"]]), known.loc[known["item_id"] == asked["item_id"], "user_id"]
        near = sorted((unit(user_emb[taker]) @ user for taker in takers), reverse=True)[:3]
        assert row.others_mean == pytest.approx(np.mean(near) if near else np.nan, abs=1e-5, nan_ok=True)
        assert row.match == pytest.approx(user @ target, abs=1e-5)
        assert row.own_mean == pytest.approx(max(unit(item_emb[i]) @ target for i in own), abs=1e-5)
        assert list(row.own_items) == [max(own, key=lambda i: unit(item_emb[i]) @ target)]  # noqa: B023
        assert (row.n_user, row.n_item) == (len(own), (known["item_id"] == asked["item_id"]).sum())


def test_negatives_of_the_label_part_are_no_evidence(folder):
    _, frames = prepare_sequences(folder)
    rng = np.random.default_rng(3)
    similar = retriever.graph_retriever(rng.standard_normal((60, 4)), rng.standard_normal((25, 4)))
    before = retriever.split_matches(frames["interactions"], frames["split"], similar, similar, 3)
    assert set(np.concatenate(before["others"].tolist())) <= set(range(10))
    rows, split = frames["interactions"], frames["split"]
    is_drawn = ~rows["observed"] & (split["split"] == "label").to_numpy()
    later = before["row"].isin(split.loc[~split["split"].isin(("graph", "label")), "row"])
    without = retriever.split_matches(rows[~is_drawn], split[~is_drawn.to_numpy()], similar, similar, 3)
    for column in ("others_mean", "own_mean", "match", "n_user", "n_item"):
        np.testing.assert_array_equal(before.loc[later, column],
                                      without.loc[without["row"].isin(before.loc[later, "row"]), column])


def test_nothing_taken_at_or_after_a_request_is_evidence():
    rng = np.random.default_rng(0)
    similar = retriever.graph_retriever(rng.standard_normal((6, 4)), rng.standard_normal((5, 4)))
    known = pd.DataFrame({"user_id": [1, 2, 3, 0, 0], "item_id": [0, 0, 0, 1, 2], "rating": 1.0,
                          "timestamp": [5, 9, 10, 5, 10], "row": range(5)})  # fmt: skip
    asked = pd.DataFrame({"row": [9], "user_id": [0], "item_id": [0], "request_timestamp": [10]})
    found, cut = (retriever.match_evidence(asked, part, similar, 8) for part in (known, known[known["timestamp"] < 10]))
    pd.testing.assert_frame_equal(found, cut)
    assert found.loc[0, ["n_user", "n_item"]].tolist() == [1, 2]


def test_digits_say_which_tenth_of_their_own_graphs_similarities():
    frame = pd.DataFrame({"others_mean": np.r_[np.arange(100.0), np.nan], "match": np.arange(101.0)[::-1],
                          "own_mean": np.arange(101.0)})  # fmt: skip
    shown = retriever.add_digits(frame, frame)
    assert np.concatenate(shown["others"][:100].tolist()).tolist() == [k // 10 for k in range(100)]
    assert shown["others"][100].tolist() == [] and shown["own"][0].tolist() == [9, 0]
    other = retriever.add_digits(frame * 7 - 3, frame * 7 - 3)  # another scale, the same digits
    for name in ("others", "own"):
        assert all(map(np.array_equal, shown[name], other[name]))


def test_a_target_taken_by_a_neighbour_is_found_as_a_loop_finds_it():
    rng, n_items = np.random.default_rng(1), 40
    vectors = rng.standard_normal((25, 5)).astype(np.float32)
    taken = pd.DataFrame({"user_id": rng.integers(0, 25, 120), "item_id": rng.integers(0, n_items, 120)})
    asked = pd.DataFrame({"user_id": rng.integers(0, 25, 60), "item_id": rng.integers(0, n_items, 60)})
    found = retriever.taken_by_neighbors(asked, taken, vectors, 4)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for (user, item), one in zip(asked.itertuples(index=False), found, strict=True):
        near = [other for other in np.argsort(-unit @ unit[user]) if other != user][:4]
        assert one == taken.loc[taken["user_id"].isin(near), "item_id"].eq(item).any()
    assert 0 < found.mean() < 1


@pytest.mark.parametrize(("stars", "stops", "text"), [
    (lambda r: r * 20, True, "between 20 and 100"), (lambda r: r - 2, True, "between -1 and 3"),
    (lambda r: r - 0.5, False, "100% of the ratings are not whole")])  # fmt: skip
def test_ratings_that_a_prompt_cannot_show_are_named(stars, stops, text):
    cfg = config.load("examples/study.toml", "smoke")
    frames = data.prepare(cfg)
    frames["interactions"]["rating"] = stars(frames["interactions"]["rating"])
    found = [finding for finding in data.check_support(frames, cfg.data, 100) if text in finding.what]
    assert [finding.stops for finding in found] == [stops]


def test_half_stars_round_up_in_the_prompt_and_count_in_the_mean():
    known = pd.DataFrame({"row": [0, 1], "user_id": [1, 0], "item_id": [0, 1], "rating": [4.5, 0.5],
                          "timestamp": [1, 1]})  # fmt: skip
    asked = pd.DataFrame({"row": [9], "user_id": [0], "item_id": [0], "request_timestamp": [5]})
    found = retriever.build_evidence(asked, known, retriever.graph_retriever(np.eye(2), np.eye(2)), 3, 3).iloc[0]
    assert (found["others"].tolist(), found["own"].tolist()) == ([5], [1])
    assert (found["others_mean"], found["own_mean"]) == (4.5, 0.5)
    assert prompts.history_text(["a", "b"], [4.5, 0.5]) == " Recent: a 5; b 1."


def test_what_is_set_aside_is_a_share_of_what_was_checked(folder):
    """Before the core is cut, not after: a sparse dataset with a core is no broken one."""
    write_books(folder)
    raw = data.read(settings_of("bookcrossing", min_ratings=1))
    n_unread = len(reasons(raw)["wrong number of fields"])
    assert raw["n_checked"] == len(RATED) - 1 - n_unread - raw["left_out"]["n_rows"][0]
    cfg = config.load("examples/study.toml", "smoke")
    frames = data.prepare(cfg) | {"quarantine": pd.DataFrame({"reason": ["unknown item"] * 45, "remedy": "x"})}
    found = data.check_support(frames, cfg.data, 100)
    assert [(one.stops, one.what) for one in found if "set aside" in one.what] == [
        (False, "45% of the rows are set aside (45 of 100 rows): unknown item")]


def test_opposites_that_popularity_gives_away_are_named(folder):
    cfg, frames = prepare_sequences(folder)
    rows, split = frames["interactions"], frames["split"]["split"].to_numpy()
    rare = rows.loc[split == "graph", "item_id"].value_counts().index[-1]
    drawn = ~rows["observed"].to_numpy() & (split == "test")
    frames["interactions"] = rows.assign(item_id=np.where(drawn, rare, rows["item_id"]))
    found = [finding.what for finding in data.check_support(frames, cfg.data, len(rows))]
    assert any(text.startswith("test: popularity alone") for text in found)


# Rules that any dataset may use


def rated(n=400, n_users=40, n_items=30, seed=0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    pairs = rng.choice(n_users * n_items, n, replace=False)
    return pd.DataFrame({"line": np.arange(2, n + 2), "user_id": [f"u{p // n_items}" for p in pairs],
                         "item_id": [f"i{p % n_items}" for p in pairs], "rating": rng.integers(1, 6, n).astype(float),
                         "timestamp": rng.integers(0, 50, n).astype(float)})  # fmt: skip


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 12))
def test_the_core_equals_a_loop(seed, k):
    frame = rated(seed=seed)
    with tables.open_database() as database:
        database.register("frame", frame)
        database.execute("create table ratings as select * from frame")
        left_out = cleaning._thin(database, settings_of("ml-1m", min_ratings=k))
        found = set(database.execute("select line from ratings").fetchdf()["line"])
    while True:
        of_user, of_item = (frame[key].map(frame[key].value_counts()) for key in ("user_id", "item_id"))
        kept = frame[(of_user >= k) & (of_item >= k)]
        if len(kept) == len(frame):
            break
        frame = kept
    assert found == set(frame["line"]) and left_out[0]["n_rows"] == 400 - len(found)


def test_the_cap_keeps_the_latest_rows():
    frame = rated().assign(user_id="one", item_id=lambda f: "i" + f["line"].astype(str))
    frame["timestamp"] = frame["line"].astype(float)
    with tables.open_database() as database:
        database.register("frame", frame)
        database.execute("create table ratings as select * from frame")
        left_out = cleaning._thin(database, settings_of("ml-1m", max_user_rows=7))
        kept = database.execute("select line from ratings order by line").fetchdf()["line"].tolist()
    assert kept == list(range(395, 402))
    assert left_out == [{"rule": "a user's rows beyond 7", "n_rows": 393}]


def test_without_a_clock_the_split_is_seeded_and_does_not_look_at_the_file_order():
    rows = pd.DataFrame({"user_id": np.repeat(range(5), 20), "item_id": np.tile(range(20), 5), "timestamp": 0})
    split = pd.Series(data.split_by_time(rows, (0.6, 0.2, 0.1, 0.1)), index=rows.index)
    shuffled = rows.sample(frac=1, random_state=1)
    assert (data.split_by_time(shuffled, (0.6, 0.2, 0.1, 0.1)) == split.loc[shuffled.index]).all()
    assert split.groupby(rows["item_id"]).nunique().gt(1).any()  # not the first items for everybody


def test_own_median_is_of_the_graph_part():
    rows = pd.DataFrame({"user_id": [0, 0, 0, 0, 1], "rating": [2.0, 4.0, 3.0, 5.0, 3.0]})
    parts = np.array(["graph", "graph", "label", "test", "test"], dtype=object)
    assert splits.label_above_own_median(rows, parts).tolist() == [0, 1, 0, 1, 0]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 12))
def test_the_last_three_parts_hold_one_row_each(n):
    ends = splits.last_three_ends([n])[0]
    sizes = np.diff(ends, prepend=0)
    assert sizes.sum() == n and (sizes >= 0).all() and (n < 4 or sizes.tolist() == [n - 3, 1, 1, 1])
    assert sizes.tolist() == sorted(sizes.tolist(), reverse=True)


# --- without a notebook


def test_a_dataset_is_looked_at_from_the_command_line(capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(["examples/study.toml", "--profile", "smoke"])
    found = json.loads(capsys.readouterr().out)
    frames = data.prepare(config.load("examples/study.toml", "smoke"))
    assert found["n_interactions"] == len(frames["interactions"]) and found["n_users"] == len(frames["users"])
    assert found["share_of_clicks"] == pytest.approx(frames["interactions"]["label"].mean())
    assert set(found["seconds"]) == {"read", "prepare", "check"} and found["peak_mb"] > 10
    assert ended.value.code == any(finding["stops"] for finding in found["findings"])


def test_the_command_line_names_what_is_missing(folder):
    for name in ("nowhere", "bookcrossing"):
        with pytest.raises(SystemExit, match=f"error: .*{name}"):
            command.main([name])


def test_data_that_cannot_support_the_study_ends_with_status_one(monkeypatch, capsys):
    stops = data.Finding(True, "one user has 90% of the rows", "Cap it.")
    monkeypatch.setattr(data, "check_support", lambda *_: [stops])
    with pytest.raises(SystemExit) as ended:
        command.main(["examples/study.toml"])
    assert ended.value.code == 1 and json.loads(capsys.readouterr().out)["findings"] == [vars(stops)]
