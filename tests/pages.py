"""README, the pages of the guide, and the READMEs of the folders, as the tests read them."""

import re
from pathlib import Path
from typing import NamedTuple

from tests.aureon_command import ROOT

FOLDERS = ("flows", "connectors", "schemas", "one_lake", "tests")
GUIDE = ROOT / "flows" / "guide"
PAGES = (ROOT / "README.md", *sorted(GUIDE.glob("*.md")))
"""What users read."""
ALL_PAGES = (
    *sorted(ROOT.glob("*.md")),
    *(path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.md"))),
)
README = (ROOT / "README.md").read_text()


class Block(NamedTuple):
    """A block of code, and where it is shown."""

    page: str
    language: str
    text: str


def _blocks(path: Path) -> list[Block]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", path.read_text(), re.DOTALL | re.MULTILINE)
    return [Block(path.relative_to(ROOT).as_posix(), language, text) for language, text in found]


BLOCKS = [block for path in PAGES for block in _blocks(path)]


def guide(name: str) -> str:
    """The text of one page of the guide."""
    return (GUIDE / f"{name}.md").read_text()


def blocks(language: str, mark: str = "") -> list[Block]:
    """The blocks of a language that hold a mark, on whatever page."""
    return [block for block in BLOCKS if block.language == language and mark in block.text]


def block(language: str, mark: str) -> str:
    """The only one."""
    found = blocks(language, mark)
    assert len(found) == 1, f"{len(found)} blocks with {mark!r}: {[b.page for b in found]}"
    return found[0].text


def prose(text: str) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(text: str) -> set[str]:
    """The names that headings of a page have in links: lower case, without marks, with hyphens for blanks."""
    headings = re.findall(r"^#{1,6} (.+)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
