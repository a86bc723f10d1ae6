"""What all tests share: few threads, no network, hypothesis without deadlines, a run folder of their own."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two pytest workers share two cores
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

from eestudy import artifacts  # noqa: E402

settings.register_profile("study", deadline=None, derandomize=True)
settings.load_profile("study")


@pytest.fixture
def run(tmp_path, monkeypatch) -> artifacts.Run:
    """An empty smoke run in a temporary folder."""
    monkeypatch.setenv("RUN_DIR", str(tmp_path / "run"))
    return artifacts.open_run("ml-100k", "smoke", 0)
