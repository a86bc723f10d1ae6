"""A coverage-guided fuzzer on the readers: libFuzzer, by atheris, which only this needs
(`pip install atheris==3.0.0`).

    PYTHONPATH=tests python -m faults.guided FOLDER -max_total_time=600 -seed=1
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import stand_in

from faults.outcome import Outcome

NAMES = ("ratings.csv", "items.csv", "shop.toml")


def fuzz(folder: Path, seconds: int, seed: int) -> list[Outcome]:
    """Let the fuzzer look for an error that is not ours, in a process of its own; [] where atheris is not there."""
    if importlib.util.find_spec("atheris") is None:
        print("atheris is not installed: the readers are not fuzzed by coverage (pip install atheris==3.0.0).")
        return []
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "faults.guided", str(folder), f"-max_total_time={seconds}", f"-seed={seed + 1}",
               "-timeout=20", "-rss_limit_mb=3000", f"-artifact_prefix={folder}/"]  # fmt: skip
    environment = stand_in.environment()
    environment["PYTHONPATH"] += f":{Path(stand_in.__file__).parent}"
    done = subprocess.run(command, env=environment, capture_output=True, text=True)  # noqa: S603
    runs = [int(n) for n in re.findall(r"^#(\d+)|Done (\d+) runs", done.stderr, re.MULTILINE) for n in n if n]
    outcome = Outcome("file by a coverage-guided fuzzer", seed, *(max([*runs, 0]),) * 2)
    if done.returncode:
        outcome.count(False, None, done.stderr[-3000:])
    return [outcome]


def main() -> None:
    """Fuzz until libFuzzer's own options end it."""
    import atheris

    with atheris.instrument_imports(include=["eestudy"]):
        import toys

        from faults import inputs

    folder, good = Path(sys.argv.pop(1)), toys.shop_files(n_users=12, n_items=10, per_user=8)
    good |= {"shop.toml": inputs.TOML}

    def one(content: bytes) -> None:
        """One input: its first byte chooses the file that it replaces, or is put in front of."""
        chosen = content[0] % (2 * len(NAMES)) if content else 0
        for number, name in enumerate(NAMES):
            rest = good[name] if chosen >= len(NAMES) else b""
            (folder / name).write_bytes(content[1:] + rest if chosen % len(NAMES) == number else good[name])
        outcome = Outcome("fuzzed file", 0)
        inputs.attempt(outcome, lambda: inputs.read_shop(folder), content)
        assert outcome.is_clean, content

    corpus = folder / "corpus"
    corpus.mkdir(exist_ok=True)
    for number, name in enumerate(NAMES):
        (corpus / name).write_bytes(bytes([number]) + good[name])
    atheris.Setup([*sys.argv, str(corpus)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
