"""Links in the documents lead somewhere: to files of this project, and to headings that exist there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def anchors(document: Path) -> set[str]:
    """As Markdown viewers make them of headings."""
    headings = re.findall(r"^#+ +(.+)$", _FENCED.sub("", document.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    links = _LINK.findall(_FENCED.sub("", document.read_text()))
    for link in (link for link in links if "://" not in link and not link.startswith("mailto:")):
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), f"{link} leads nowhere"
        assert target.is_relative_to(ROOT), f"{link} leads out of the project"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{target.name} has no heading for #{anchor}"


@pytest.mark.parametrize("promise", ["queues fairly", "never lost and never run twice", "without a gap", "figures"])
def test_each_promise_of_the_readme_links_to_its_proof(promise: str) -> None:
    readme = " ".join((ROOT / "README.md").read_text().split())
    proof = re.search(rf"\[[^\]]*{promise}[^\]]*\]\((\S+)\)", readme)
    assert proof, f"{promise!r} is no link"
    assert proof[1].startswith(("docs/reliability.md", "docs/performance.md"))
