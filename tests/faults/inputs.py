"""Generated files and values through every reader and public function that takes a user's data.

Whatever comes: an error of the package's own kind, or a counted quarantine; never another exception, a hang, or memory
beyond a bound. Files are good ones of a made-up shop, spoilt by a seed; values come from hypothesis.
"""

from __future__ import annotations

import contextlib
import gzip
import random
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import toys
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from eestudy import artifacts, assets, config, data, prompts, report, scorer, untrusted
from eestudy.data.cleaning import clean_title
from eestudy.progress import most_held_mb
from faults.outcome import Outcome
from faults.titles import GALLERY

OURS = (ValueError, assets.AssetError, artifacts.ArtifactError)  # the package's own errors are among these
PACKAGE = str(artifacts.ROOT / "eestudy")
MOST_SECONDS, MOST_MB = 20, 3000  # of one input; of the whole process
TOML = b"""
[data]
item_noun = "thing"
label_rule = "rating"
[data.ratings]
file = "ratings.csv"
columns = {user_id = "user", item_id = "item", rating = "stars", timestamp = "when"}
[data.items]
file = "items.csv"
columns = {item_id = "item", title = "name"}
"""
WORDS = (b",", b"\n", b"\r\n", b'"', b"'", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"nan", b"inf", b"-1", b"1e309",
         b"9" * 400, b"\\", b";", b"\t", b"{", b"}", b"[", b"]", b"=", b"#", b"u1", b"i1", b"5", b"\xed\xa0\x80",
         b"true", b"2024-02-30", b"99999-01-01", b"data", b"ratings", b"header = false", b"delimiter = ''")  # fmt: skip


def spoilt(content: bytes, rng: random.Random) -> bytes:
    """A file after a few accidents: pieces cut, doubled, overwritten, replaced by words that readers trip over."""
    if rng.random() < 0.05:
        return rng.randbytes(rng.randrange(2000))
    for _ in range(rng.randrange(1, 6)):
        a, b = sorted(rng.randrange(len(content) + 1) for _ in range(2))
        b = min(b, a + rng.choice((1, 3, 40, 4000)))
        piece = rng.choice((b"", content[a:b] * 2, rng.choice(WORDS), rng.randbytes(b - a),
                            rng.choice(GALLERY).encode("utf-8", "surrogatepass")))
        content = content[:a] + piece + content[b:]
    return content


def _spoil_shop(folder: Path, good: dict[str, bytes], rng: random.Random) -> None:
    """Write a shop of which one file or two are spoilt; now and then as JSON lines or compressed."""
    chosen = rng.sample(list(good), rng.choice((1, 1, 2)))
    shop = {name: spoilt(content, rng) if name in chosen else content for name, content in good.items()}
    form = rng.random()
    if form < 0.15:
        shop["ratings.csv.gz"] = gzip.compress(shop["ratings.csv"])[: rng.choice((10**9, 10**9, 500))]
        shop["shop.toml"] = shop["shop.toml"].replace(b"ratings.csv", b"ratings.csv.gz")
    elif form < 0.3:
        head, *lines = good["ratings.csv"].decode().splitlines()
        rows = ["{" + ", ".join(f'"{n}": "{v}"' for n, v in zip(head.split(","), line.split(","), strict=True)) + "}"
                for line in lines]  # fmt: skip
        shop["ratings.jsonl"] = spoilt("\n".join(rows).encode(), rng)
        shop["shop.toml"] = shop["shop.toml"].replace(b"ratings.csv", b"ratings.jsonl")
    for name, content in shop.items():
        (folder / name).write_bytes(content)


def read_shop(folder: Path) -> None:
    """`read_study` of a shop."""
    read_study(config.load(str(folder / "shop.toml"), "smoke"))


def read_study(cfg: config.StudyConfig) -> None:
    """What `make look` does; every row that was read is used, or counted."""
    raw = data.read(cfg.data)
    frames = data.prepare(cfg, raw)
    data.check_support(frames, cfg.data, raw["n_checked"])
    data.quarantine_summary(frames["quarantine"])
    interactions = frames["interactions"]
    assert interactions["label"].isin((0, 1)).all() and np.isfinite(interactions["rating"]).all()
    assert frames["items"]["title"].map(lambda title: any(map(_is_seen, title))).all()


def _is_seen(letter: str) -> bool:
    return letter.isprintable() and not letter.isspace()


def attempt(outcome: Outcome, work: Callable[[], object], what: object) -> None:
    """One input: it passes, or is refused by an error of ours, in time and within memory."""
    start = time.perf_counter()
    try:
        work()
        is_ours = True
    except OURS as error:  # raised on purpose: its traceback ends in the package, at a line that raises
        last = traceback.extract_tb(error.__traceback__)[-1]
        is_ours = last.filename.startswith(PACKAGE) and last.line.startswith("raise")
        what = (type(error), error, what)
    except Exception as error:  # noqa: BLE001 - this is what is looked for
        is_ours, what = False, (type(error), error, what)
    in_bounds = time.perf_counter() - start < MOST_SECONDS and most_held_mb() < MOST_MB
    outcome.count(is_ours and in_bounds, None, str(what)[:1000])


def files(folder: Path, n_cases: int, seed: int) -> Outcome:
    """Spoilt files of ratings, items, and the toml that describes them, through the readers."""
    outcome, good = Outcome("spoilt file", seed), toys.shop_files(n_users=12, n_items=10, per_user=8)
    good |= {"shop.toml": TOML}
    for case in range(n_cases):
        _spoil_shop(folder, good, random.Random(seed * 1_000_003 + case))  # noqa: S311
        attempt(outcome, lambda: read_shop(folder), f"number {case}: files in {folder}")
        if outcome.lost:
            _keep(folder, outcome.tried)
    return outcome


def _keep(folder: Path, number: int) -> None:
    """Keep the first input that was lost, for a look."""
    kept = folder / "lost"
    if not kept.exists():
        kept.mkdir()
        for path in list(folder.iterdir()):
            if path.is_file():
                (kept / f"{number}-{path.name}").write_bytes(path.read_bytes())


TEXTS = st.one_of(st.sampled_from(GALLERY), st.text(st.characters(codec=None), max_size=60))
NUMBERS = st.one_of(st.floats(), st.integers(-3, 12), st.integers(-(10**30), 10**30))


def _functions(folder: Path) -> dict[str, tuple[st.SearchStrategy, Callable]]:
    """Public functions that take what a user or somebody else wrote: name -> values, call."""
    cfg, tokenizer = toys.study(), toys.byte_tokenizer()
    questions = st.builds(scorer.Question, TEXTS, TEXTS, st.lists(st.tuples(TEXTS, NUMBERS), max_size=4),
                          st.lists(TEXTS, max_size=3), st.lists(st.lists(NUMBERS, max_size=3), max_size=3),
                          st.lists(st.lists(NUMBERS, max_size=3), max_size=3))  # fmt: skip
    run = artifacts.Run(folder, "ml-100k", "smoke", 0)

    def tell(texts):
        blocks = [("heading", 2, texts[0]), ("text", texts[0]), ("list", texts), ("quote", texts[-1]),
                  ("table", pd.DataFrame({"title": texts}, dtype=object))]  # half a surrogate pair fits no other
        return report.to_html(blocks), report.to_markdown(blocks)

    def round_trip(texts):
        artifacts.write_table(run, "x.csv", pd.DataFrame({"n": range(len(texts)), "title": texts}))
        artifacts.read_table(run, "x.csv")

    def write_toml(content):
        (folder / "shop.toml").write_bytes(content)
        config.load(str(folder / "shop.toml"), "smoke")

    def write_pins(text):
        (folder / "assets.txt").write_text(text, encoding="utf-8", errors="replace")
        assets.read_assets(folder / "assets.txt")

    return {
        "config.load": (st.tuples(TEXTS, TEXTS, st.one_of(NUMBERS, TEXTS)), lambda v: config.load(*v)),
        "config.load (toml)": (st.binary(max_size=200), write_toml),
        "artifacts.open_run": (st.tuples(TEXTS, TEXTS), lambda v: artifacts.open_run(*v, 0)),
        "artifacts.Run.path": (TEXTS, run.path),
        "artifacts.write_table": (st.lists(TEXTS.filter(_is_text), min_size=1, max_size=4), round_trip),
        "assets.read_assets": (TEXTS, write_pins),
        "data.clean_title": (TEXTS.filter(_is_text), clean_title),
        "prompts.clean_title": (TEXTS, prompts.clean_title),
        "prompts.cut_titles": (st.lists(TEXTS, max_size=3), lambda v: prompts.cut_titles(v, tokenizer, 8)),
        "report": (st.lists(TEXTS, min_size=1, max_size=3), tell),
        "scorer.tokenize": (questions, lambda question: scorer.tokenize(question, cfg, tokenizer)),
        "untrusted": (TEXTS, lambda text: (untrusted.terminal_text(text), untrusted.plain_text(text))),
    }


def _is_text(text: str) -> bool:
    """Whether UTF-8 can say it: files of text hold no halves of a character."""
    with contextlib.suppress(UnicodeEncodeError):
        return bool(text.encode()) or True
    return False


def values(folder: Path, n_cases: int, seed: int) -> Outcome:
    """Texts and numbers, hostile and absurd, through the functions that take them."""
    folder.mkdir(parents=True, exist_ok=True)
    outcome, functions = Outcome("odd value", seed), _functions(folder)
    for name, (strategy, call) in functions.items():
        _attempts(outcome, name, strategy, call, max(1, n_cases // len(functions)))
    return outcome


def _attempts(outcome: Outcome, name: str, strategy: st.SearchStrategy, call: Callable, n: int) -> None:
    @seeded(outcome.seed)
    @settings(max_examples=n, database=None, deadline=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))
    @given(strategy)
    def each(value):
        attempt(outcome, lambda: call(value), f"{name}({value!r})")

    each()
