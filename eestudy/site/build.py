"""Write the folder of pages: everything a page needs stands in the page itself."""

from __future__ import annotations

import base64
import hashlib
import shutil
import tempfile
from importlib import resources
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from eestudy import artifacts, replay, report
from eestudy.chain import TOUR
from eestudy.report import answers
from eestudy.report.datasets import dataset_blocks
from eestudy.report.headline import is_replayed
from eestudy.report.narrative import report_blocks
from eestudy.report.page import plain_text, to_html
from eestudy.site import notebooks, walks
from eestudy.site.explorer import study

QUESTION = "LLM recommenders are too slow. Does graph retrieval plus early exit really fix that?"
FIGURES = ("08_tradeoff_latency", "08_tradeoff_token_layers")  # the first that a run has stands on the front page
STATIC = resources.files("eestudy.site") / "static"


def environment() -> Environment:
    """Templates that escape whatever they are given."""
    env = Environment(loader=PackageLoader("eestudy.site"), autoescape=True, undefined=StrictUndefined,
                      trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    env.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    env.globals |= {"style": Markup((STATIC / "site.css").read_text()), "question": QUESTION}  # noqa: S704 our own file
    return env


def script(name: str) -> dict:
    """A script of the package for a page: its text, and the hash by which the page's policy lets it alone run."""
    text = (STATIC / name).read_text()
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return {"script": Markup(text), "allowed": f"'sha256-{digest}'"}  # noqa: S704


def data_url(run: artifacts.Run, name: str) -> str | None:
    """A PNG of the run as a data URL, or None where it has none."""
    if not artifacts.artifact_hash(run, name):
        return None
    return "data:image/png;base64," + base64.b64encode(artifacts.read_bytes(run, name)).decode()


def clean_examples(found: dict) -> dict:
    """A study whose titles and prompts have lost control and direction characters, in place."""
    for example in found["examples"]:
        example["title"] = plain_text(example["title"])
        example["prompt"] = "\n".join(plain_text(line) for line in example["prompt"].split("\n"))
        example["evidence"] = walks.evidence(example)
    return found


class Site:
    """A folder that fills with pages.

    Args:
        folder: where the pages go.
    """

    def __init__(self, folder: Path):
        self.folder, self.env = folder, environment()

    def page(self, name: str, template: str, title: str, **content) -> Path:
        """Render one page; `root` in a template leads back to the folder from wherever the page lies."""
        content = {"script": "", "allowed": "'none'", "here": name, "title": title, "root": "../" * name.count("/"),
                   **content}  # fmt: skip
        path = self.folder / name
        artifacts.write_atomic(path, self.env.get_template(template).render(**content).encode())
        return path


def _notebook_pages(site: Site, run: artifacts.Run) -> list[dict]:
    entries = []
    tour = artifacts.reference_dir() / TOUR
    for path in (*sorted(run.root.glob("notebooks/[0-9]*.ipynb")), *sorted(tour.glob("*.ipynb"))):
        title, body = notebooks.render(path)
        site.page(f"notebooks/{path.stem}.html", "notebook.html", title, body=Markup(body))  # noqa: S704 made safe
        entries.append({"link": f"notebooks/{path.stem}.html", "text": title})
    return entries


def _example_pages(site: Site, found: dict) -> list[dict]:
    entries = []
    for place, example in enumerate(found["examples"]):
        name, title = f"examples/{found['dataset']}-{example['row']}.html", f"{example['title']}: layer by layer"
        example["link"] = name
        site.page(name, "example.html", title, study=found, example=example, heads=walks.heads(found, example),
                  stops=walks.stops(found, place))  # fmt: skip
        clicked = "clicked" if example["label"] else "not clicked"
        entries.append({"link": name, "text": example["title"], "group": found["dataset"],
                        "note": f"{clicked}, row {example['row']}"})  # fmt: skip
    return entries


def _report_page(site: Site, run: artifacts.Run, metrics: dict, beside: list[dict]) -> None:
    blocks = report_blocks(run, metrics, 0) if artifacts.artifact_hash(run, "tradeoff.csv") else []
    blocks += [("heading", 2, "All datasets"), *dataset_blocks(beside)]
    site.page("report.html", "report.html", "The whole report", body=Markup(to_html(blocks)))  # noqa: S704 escaped


def _list_page(site: Site, name: str, title: str, lead: str, entries: list[dict]) -> None:
    site.page(name, "list.html", title, lead=lead, entries=entries)


def fill(site: Site, run: artifacts.Run, studies: list[dict]) -> None:
    """Write every page.

    Args:
        site: the folder.
        run: whose numbers the front page, the report and the notebooks tell.
        studies: from `explorer.study`, one a dataset.
    """
    metrics = artifacts.read_json(run, "metrics.json")
    beside = report.beside_references(metrics)
    figure = next(filter(None, (data_url(run, f"figures/{name}.png") for name in FIGURES)), None)
    walked = [entry for found in studies for entry in _example_pages(site, found)]
    _list_page(site, "examples.html", "Single predictions", "The way of one prediction through the layers. Of each "
               "dataset half are those whose answer depth changes most, half are spread evenly over the test.", walked)
    _list_page(site, "notebooks.html", "The notebooks", "As they were executed, with everything they printed.",
               _notebook_pages(site, run))  # fmt: skip
    _report_page(site, run, metrics, beside)
    site.page("explorer.html", "explorer.html", "Explorer", data={"studies": studies, "first": metrics["dataset"]},
              **script("explorer.js"))  # fmt: skip
    source = next((found["source"] for found in studies if found["dataset"] == metrics["dataset"]), "")
    site.page("index.html", "index.html", "The answer", metrics=metrics, answer=answers.answer(metrics), source=source,
              answers=answers.answers(metrics), figure=figure, datasets=[one["dataset"] for one in beside],
              beside=answers.beside(beside))  # fmt: skip


def is_finished(run: artifacts.Run) -> bool:
    """Whether a run has what the pages show."""
    return all(artifacts.artifact_hash(run, name) for name in ("metrics.json", "head_scores.parquet"))


def _replace(fresh: Path, folder: Path) -> None:
    """Put the fresh pages where the old ones were; a folder that holds anything else is left alone."""
    artifacts.put_back(folder)
    if folder.exists() and any(folder.iterdir()) and not (folder / "explorer.html").exists():
        raise artifacts.ArtifactError(f"{folder} holds something else than these pages; choose another SITE_DIR")
    beside = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(beside, ignore_errors=True)
    shutil.copytree(fresh, beside)
    artifacts.replace_folder(beside, folder)


def build(run: artifacts.Run, folder: Path, base: Path | None = None) -> Path:
    """Build the pages of a run, or of the committed reference where the run is not finished.

    Args:
        run: dataset, profile and seed, and where their results would lie.
        folder: the site; replaced whole.
        base: where the references lie, or None for the committed ones.

    Returns:
        The path of the front page.

    Raises:
        artifacts.ArtifactError: neither a finished run nor a reference, or the folder holds something else.
    """
    mine = artifacts.study_name(run.dataset)
    with tempfile.TemporaryDirectory() as scratch:
        runs = {name: artifacts.Run(Path(scratch) / name, name, run.profile, run.seed)
                for name in {*replay.references(run.profile, base), mine}}  # fmt: skip
        kept = f"the committed reference, profile {run.profile}"
        sources = dict.fromkeys(runs, kept)
        if is_finished(run):
            runs[mine] = run
            own = f"a run on this machine, profile {run.profile}, seed {run.seed}"
            sources[mine] = kept if is_replayed(run) else own
        made = {name: one if one is run else replay.rebuild(one, base) for name, one in sorted(runs.items())}
        studies = [clean_examples(study(one, sources[name])) for name, one in made.items()]
        fresh = Site(Path(scratch) / "site")
        fill(fresh, made[mine], studies)
        _replace(fresh.folder, folder)
    return folder / "index.html"
