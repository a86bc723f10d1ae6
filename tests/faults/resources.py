"""No room, permission, network, memory, or the wrong download: a clear error, and what was there before still is."""

from __future__ import annotations

import os
import random
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import stand_in

from eestudy import artifacts
from eestudy.artifacts import ArtifactError, Run
from eestudy.commands import MORE_MEMORY
from faults.kills import Download, make_download, smoke_chain
from faults.outcome import Outcome

RUN = ("ml-100k", "smoke", 0)
MOUNTED = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
FILL = """
import sys
from pathlib import Path
sys.path[:0] = {paths!r}
from faults.resources import fill
sys.exit(not fill(Path(sys.argv[1]), int(sys.argv[2])))
"""


def _in_fork(work: Callable[[], bool]) -> bool:
    """Whether `work` returned true in a fork of this process, whose limits die with it."""
    pid = os.fork()
    if pid == 0:
        ended = 1
        try:
            ended = int(not work())
        finally:
            os._exit(ended)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def refused_write(run: Run, size: int) -> bool:
    """Whether a write of so many bytes, for which there is no room, is a clear error that leaves the old file whole."""
    before = artifacts.read_bytes(run, "x.bin")
    try:
        artifacts.write_bytes(run, "x.bin", b"n" * size)
        return False
    except ArtifactError as error:
        clear = "x.bin" in str(error) and "cannot be written" in str(error) and "Free space" in str(error)
    return clear and artifacts.read_bytes(run, "x.bin") == before and not list(run.root.rglob("*.tmp"))


def file_limit(folder: Path, n_cases: int, seed: int) -> Outcome:
    """A write that breaks off at a random byte, as on a full disk: the process's own limit stands in for it."""
    outcome, rng = Outcome("no room for a file", seed), random.Random(seed)  # noqa: S311
    run = Run(folder, *RUN)
    artifacts.write_bytes(run, "x.bin", b"old" * 1000)
    for _ in range(n_cases):
        limit = rng.randrange(1, 20_000)

        def work(limit=limit):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            return refused_write(run, 20_000)

        outcome.count(_in_fork(work), artifacts.read_bytes(run, "x.bin") == b"old" * 1000, limit)
    return outcome


def can_mount() -> bool:
    """Whether this process may mount a small file system of its own."""
    try:
        return subprocess.run([*MOUNTED, "mount -t tmpfs -o size=1m tmpfs /mnt"],  # noqa: S603
                              capture_output=True).returncode == 0
    except OSError:
        return False


def fill(folder: Path, seed: int) -> bool:
    """Inside a small file system: fill it with artifacts until one is refused; whether all earlier ones are whole."""
    rng, run, written = random.Random(seed), Run(folder, *RUN), {}  # noqa: S311
    artifacts.write_bytes(run, "x.bin", b"old" * 1000)
    for k in range(10_000):
        content = rng.randbytes(rng.randrange(1, 60_000))
        try:
            artifacts.write_bytes(run, f"{k}.bin", content)
        except ArtifactError as error:
            return ("No space left" in str(error) and not list(folder.rglob("*.tmp"))
                    and all(artifacts.read_bytes(run, name) == whole for name, whole in written.items())
                    and refused_write(run, 2_000_000))  # fmt: skip
        written[f"{k}.bin"] = content
    return False


def _in_mount(folder: Path, options: str, code: str, *arguments: str) -> bool:
    """Whether Python code ends well where a small file system lies over `folder`."""
    script = f'mount -t tmpfs -o size=1m tmpfs "$1" && {options} shift && exec "$@"'
    paths = [str(artifacts.ROOT), str(artifacts.ROOT / "tests")]
    inside = ["sh", str(folder), sys.executable, "-c", code.format(paths=paths), str(folder), *arguments]
    done = subprocess.run([*MOUNTED, script, *inside], capture_output=True, text=True)  # noqa: S603
    print(done.stderr[-1000:], end="")
    return done.returncode == 0


def full_disk(folder: Path, n_cases: int, seed: int) -> Outcome:
    """A file system of 1 MB, filled with artifacts of random sizes."""
    outcome = Outcome("disk full", seed)
    for case in range(n_cases):
        ended = _in_mount(folder, "", FILL, str(seed + case))
        outcome.count(ended, ended, case)
    return outcome


FULL_CHAIN = """
mount -t tmpfs -o size="$2"m tmpfs "$1" || exit 9
kept=$3 run=$1
shift 3
"$@" >"$kept/first.txt" 2>&1 && exit 8
find "$run" -name '*.tmp' >"$kept/left.txt"
mount -o remount,size=900m tmpfs "$run" && "$@" >"$kept/second.txt" 2>&1
ended=$?
cp -a "$run" "$kept/run"
exit "$ended"
"""


def full_disk_in_the_chain(folder: Path, n_cases: int, seed: int) -> Outcome:
    """`make reproduce` on a disk that becomes full somewhere on the way, and once more when there is room."""
    outcome, rng = Outcome("disk full in the chain", seed), random.Random(seed)  # noqa: S311
    undisturbed = smoke_chain(folder / "undisturbed")
    assert undisturbed.finish()[0] == 0
    wanted, size = undisturbed.result(undisturbed.folder), _megabytes(folder / "undisturbed" / "run")
    for case in range(n_cases):
        mounted, kept = folder / f"mounted-{case}", folder / f"kept-{case}"
        mounted.mkdir(), kept.mkdir()
        made, room = smoke_chain(mounted), rng.randrange(1, max(2, int(0.8 * size)))
        done = subprocess.run([*MOUNTED, FULL_CHAIN, "sh", str(mounted), str(room), str(kept), *made.command],  # noqa: S603
                              cwd=artifacts.ROOT, env=made.environment)
        said = (kept / "first.txt").read_text()
        clear = "cannot be written" in said and "Free space" in said and "Traceback" not in said
        right = done.returncode == 0 and made.result(stand_in.run_folder(kept / "run" / "run")) == wanted
        outcome.count(clear and not (kept / "left.txt").read_text(), right, (room, done.returncode, said[-1500:]))
    return outcome


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20


READ_ONLY = """
import sys
from pathlib import Path
sys.path[:0] = {paths!r}
import os
os.environ["RUN_DIR"] = sys.argv[1] + "/run"
from eestudy import artifacts, pipeline
try:
    pipeline.main(["--profile", "smoke"])
except SystemExit as ended:
    print(ended.code, file=sys.stderr)
    sys.exit("cannot be made" not in str(ended.code) and "cannot be written" not in str(ended.code))
sys.exit(1)
"""


def read_only(folder: Path, n_cases: int, seed: int) -> Outcome:
    """A run folder on a file system that is mounted read-only."""
    outcome = Outcome("read-only folder", seed)
    for case in range(n_cases):
        options = 'mount -o remount,ro "$1" &&'
        if case % 2:
            options = f'mkdir -p "$1/run/ml-100k/smoke/seed-0" && {options}'
        ended = _in_mount(folder, options, READ_ONLY)
        outcome.count(ended, None, case)
    return outcome


def _refused_fetch(made: Download, outcome: Outcome, what: str, **environment: str) -> None:
    """Fetch where it cannot go well; whether it is an error that names the asset, and nothing wrong has arrived."""
    made.environment |= environment
    before = sorted(made.target.parent.iterdir()) if made.target.parent.exists() else []
    done = made.fetch()
    said = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else ""
    after = sorted(made.target.parent.iterdir()) if made.target.parent.exists() else []
    outcome.count(done.returncode == 1 and said.startswith("error: the assets could not be fetched")
                  and "tiny-data" in said, before == after, (what, done.stderr[-500:]))  # fmt: skip


def wrong_download(folder: Path, n_cases: int, seed: int) -> Outcome:
    """A wheel of other bytes, a shorter one, a web page in its place: pip's hash check and ours refuse them."""
    outcome, rng = Outcome("wrong download", seed), random.Random(seed)  # noqa: S311
    made = make_download(folder, 20_000)
    whole = made.wheel.read_bytes()
    page = b"<!doctype html><title>Sign in</title>"
    for case in range(n_cases):
        place = rng.randrange(len(whole))
        kinds = (whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :], whole[:place], page, b"")
        made.wheel.write_bytes(kinds[case % len(kinds)])
        _refused_fetch(made, outcome, f"kind {case % len(kinds)} at {place}")
    made.wheel.write_bytes(whole)
    assert made.fetch().returncode == 0 and made.is_whole()
    return outcome


def no_network(folder: Path, seed: int) -> Outcome:
    """Nothing answers: what is missing is named, and what is there is used without asking anybody."""
    outcome, made = Outcome("no network", seed), make_download(folder, 20_000)
    offline = {"PIP_FIND_LINKS": "", "PIP_NO_INDEX": "", "PIP_INDEX_URL": "https://127.0.0.1:9/simple",
               "PIP_EXTRA_INDEX_URL": "", "PIP_RETRIES": "0", "PIP_DEFAULT_TIMEOUT": "2", "PIP_CONFIG_FILE": os.devnull}
    before = dict(made.environment)
    _refused_fetch(made, outcome, "nothing answers", **offline)
    made.environment = before
    assert made.fetch().returncode == 0
    made.environment = {**before, **offline}
    outcome.count(made.fetch().returncode == 0, made.is_whole(), "it is there already")
    return outcome


LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
from eestudy import data
from eestudy.data import __main__ as command
import duckdb, pandas, sklearn.metrics
duckdb.connect().execute("select 1")
now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + int(sys.argv[1]) * 2**20,) * 2)
command.main([sys.argv[2], "--profile", "smoke"])
"""


def little_memory(n_cases: int, seed: int) -> Outcome:
    """Read a dataset with room for a few megabytes more than nothing: it works, or says what is missing."""
    outcome, rng = Outcome("too little memory", seed), random.Random(seed)  # noqa: S311
    study = str(artifacts.ROOT / "examples" / "study.toml")
    for case in range(n_cases):
        megabytes = rng.randrange(0, 60)
        done = subprocess.run([sys.executable, "-c", LITTLE_MEMORY, str(megabytes), study],  # noqa: S603
                              env=stand_in.environment(), cwd=artifacts.ROOT, capture_output=True, text=True)
        said = (done.stderr.strip().splitlines() or [""])[-1]
        is_clear = done.returncode == 0 or said.startswith("error: ") and "memory" in said
        outcome.count(is_clear, None, (case, megabytes, done.returncode, done.stderr[-800:]))
    return outcome


def little_memory_in_the_chain(folder: Path, n_cases: int, seed: int) -> Outcome:
    """`make reproduce` with too few megabytes for one of its notebooks or another, and once more with all there are.

    Python and its libraries take about 700 MB of addresses before a line of the study runs.
    """
    outcome, rng = Outcome("too little memory in the chain", seed), random.Random(seed)  # noqa: S311
    made = smoke_chain(folder / "run")
    assert made.finish()[0] == 0
    wanted = made.result(made.folder)
    for case in range(n_cases):
        kilobytes = 1000 * rng.randrange(1000, 3500)
        shutil.rmtree(made.folder)
        little = subprocess.run(["sh", "-c", 'ulimit -v "$1"; shift; exec "$@"', "sh", str(kilobytes), *made.command],  # noqa: S603, S607
                                cwd=artifacts.ROOT, env=made.environment, capture_output=True, text=True)
        is_clear = little.returncode == 0 or MORE_MEMORY in little.stderr
        right = made.finish()[0] == 0 and made.result(made.folder) == wanted and not made.leftovers()
        outcome.count(is_clear, right, (case, kilobytes, little.returncode, little.stderr[-800:]))
    return outcome
