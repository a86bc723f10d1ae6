"""Titles that give orders, and whose ratings a prompt shows: what `make probes` found, as blocks of the report."""

from __future__ import annotations

from eestudy import artifacts, probe_results


def title_blocks(run: artifacts.Run) -> list[tuple]:
    """Findings and tables on injection and privacy; one sentence each where nothing was measured.

    Args:
        run: its own table of probes is told, else the committed one of its dataset and profile.
    """
    found = probe_results.told(run)
    injection = [("heading", 2, "Can a title bend the answer?"), ("list", probe_results.injection_findings(found))]
    privacy = [("heading", 2, "Whose ratings are shown?"), ("list", probe_results.privacy_findings(found))]
    if found is None:
        return [*injection, *privacy]
    return [
        *injection, ("table", probe_results.wordings(found).reset_index()),
        ("text", "Defences, on wordings that no training has shown (of the same kind); in the candidate's title:"),
        ("table", probe_results.defences(found).reset_index()),
        ("text", "And in the title of the latest item in the history:"),
        ("table", probe_results.defences(found, "history title").reset_index()),
        *privacy, ("table", probe_results.groups(found).reset_index()),
    ]  # fmt: skip
