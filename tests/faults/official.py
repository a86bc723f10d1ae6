"""Every dataset's files in the form that their owners publish, cut small and spoilt, through the study's readers."""

from __future__ import annotations

import gzip
import json
import random
import shutil
from collections.abc import Iterable
from pathlib import Path

from eestudy import config, data
from faults.inputs import attempt, read_study, spoilt
from faults.outcome import Outcome

USERS, ITEMS, PER_USER = 12, 10, 8


def rated() -> Iterable[tuple[int, int, int, int]]:
    """User, item, stars, second of a few ratings."""
    return [(user, (3 * user + k) % ITEMS, 1 + (user * k) % 5, 978_300_760 + 86_400 * k + user)
            for user in range(1, USERS + 1) for k in range(PER_USER)]  # fmt: skip


def reviews(year: str) -> dict[str, list[str]]:
    """Amazon's reviews and metadata in the form of a year."""
    key, category = "parent_asin" if year == "2023" else "asin", "Beauty" if year == "2014" else "All_Beauty"
    titles = [json.dumps({key: f"i{i}", "title": f"Soap no. {i}"}) for i in range(ITEMS)]
    if year == "2014":  # not JSON, but what Python prints
        titles = [str(json.loads(line)) for line in titles]
    if year == "2023":
        head = ["user_id,parent_asin,rating,timestamp"]
        return {f"{category}.csv": head + [f"u{u},i{i},{s}.0,{t}000" for u, i, s, t in rated()],
                f"meta_{category}.jsonl": titles}  # fmt: skip
    lines = [json.dumps({"reviewerID": f"u{u}", "asin": f"i{i}", "overall": float(s), "unixReviewTime": t})
             for u, i, s, t in rated()]  # fmt: skip
    return {f"{'reviews_' if year == '2014' else ''}{category}_5.json": lines, f"meta_{category}.json": titles}


def forms() -> dict[str, tuple[str, str, dict[str, list[str]]]]:
    """Every form: its dataset, the year that a toml names for Amazon's reviews, and its files' lines."""
    books = [f'"{i:02}X";"A \\"book\\" no. {i}";"Somebody";"1999";"P";"http://x"' for i in range(ITEMS)]
    return {
        "Book-Crossing": ("bookcrossing", "", {
            "BX-Book-Ratings.csv": ['"User-ID";"ISBN";"Book-Rating"', *(f'"{u}";"{i:02}X";"{2 * s}"'
                                                                        for u, i, s, _ in rated())],
            "BX-Books.csv": ['"ISBN";"Book-Title";"Book-Author";"Year-Of-Publication";"Publisher";"Image"', *books]}),
        "MovieLens-1M": ("ml-1m", "", {
            "ratings.dat": [f"{u}::{i}::{s}::{t}" for u, i, s, t in rated()],
            "movies.dat": [f"{i}::Film {i} (1995)::Action|Crime" for i in range(ITEMS)],
            "users.dat": [f"{u}::F::25::10::48067" for u in range(1, USERS + 1)]}),
        "sequences": ("amazon-video-games", "", {
            "interactions.csv": ["user_id,item_id,position", *(f"u{u},i{i},{t % 86_400}" for u, i, _, t in rated())],
            "items.csv": ["item_id,title,category", *(f'i{i},"Thing, no. {i}",Toys' for i in range(ITEMS))]}),
        **{f"reviews of {year}": ("amazon-beauty", year, reviews(year)) for year in ("2014", "2018", "2023")},
    }  # fmt: skip


def encoded(lines: dict[str, list[str]]) -> dict[str, bytes]:
    """Files of lines as bytes."""
    return {name: ("\n".join(text) + "\n").encode() for name, text in lines.items()}


def _write(folder: Path, dataset: str, files: dict[str, bytes], rng: random.Random | None = None) -> None:
    """The files of a dataset, all fresh; with `rng` now and then compressed, of these now and then cut off."""
    shutil.rmtree(folder / dataset, ignore_errors=True)
    (folder / dataset).mkdir(parents=True)
    for name, content in files.items():
        if rng is not None and rng.random() < 0.3:
            name, content = f"{name}.gz", gzip.compress(content)[: rng.choice((10**9, 10**9, 300))]
        (folder / dataset / name).write_bytes(content)


def _settings(folder: Path, dataset: str, year: str) -> config.StudyConfig:
    """A dataset's own settings, small; of Amazon's reviews by a toml that names their year."""
    if not year:
        return config.load(dataset, "smoke")
    toml = folder / "reviews.toml"
    toml.write_text(f'[data]\ndataset = "{dataset}"\nform = "{year}"\n')
    return config.load(str(toml), "smoke")


def files(folder: Path, n_cases: int, seed: int, monkeypatch) -> Outcome:
    """Spoil one or two files of every form in turn.

    Args:
        folder: becomes the data folder.
        n_cases: over all forms.
        seed: of the accidents.
        monkeypatch: sets DATA_DIR.
    """
    outcome, known = Outcome("spoilt official file", seed), list(forms().items())
    monkeypatch.setenv("DATA_DIR", str(folder))
    for case in range(n_cases):
        rng, (form, (dataset, year, lines)) = random.Random(seed * 1_000_003 + case), known[case % len(known)]  # noqa: S311
        good = encoded(lines)
        chosen = rng.sample(list(good), rng.choice((1, 1, 2)))
        bad = {name: spoilt(content, rng) if name in chosen else content for name, content in good.items()}
        _write(folder, dataset, bad, rng)
        attempt(outcome, lambda: read_study(_settings(folder, dataset, year)), (form, case))  # noqa: B023 called at once
    return outcome


def whole(folder: Path, monkeypatch) -> dict[str, int]:
    """Rows that each form gives as it is: that the accidents befall files which would be read."""
    monkeypatch.setenv("DATA_DIR", str(folder))
    found = {}
    for form, (dataset, year, lines) in forms().items():
        _write(folder, dataset, encoded(lines))
        found[form] = len(data.read(_settings(folder, dataset, year).data)["interactions"])
    return found
