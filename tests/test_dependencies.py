"""Versions and hashes of the packages that cdgen is tested with."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def pins(name: str) -> set[str]:
    """Return the lines NAME==VERSION of a file, with names as an index spells them."""
    found = re.findall(r"^([\w.-]+)==([^\s;\\]+)", (ROOT / name).read_text(), flags=re.MULTILINE)
    return {f"{re.sub('[-_.]+', '-', package).lower()}=={version}" for package, version in found}


def test_every_version_but_that_of_torch_has_its_hashes() -> None:
    """`make requirements.lock` writes them; users choose a build of torch."""
    torch = {pin for pin in pins("constraints.txt") if pin.startswith("torch==")}
    assert len(torch) == 1
    assert pins("requirements.lock") == pins("constraints.txt") - torch
    entries = (ROOT / "requirements.lock").read_text().split("\n")
    for line, following in pairwise(entries):
        assert "==" not in line or "--hash=sha256:" in following, line


def test_no_file_of_packages_names_an_index() -> None:
    for name in ("constraints.txt", "requirements.lock"):
        assert not re.search(
            r"https?:|file:|--(extra-)?index|find-links", (ROOT / name).read_text()
        )
