"""What the tests of README, docs/ and the other pages share: the pages, and their blocks of code."""

import re

from conftest import TOP

PAGES = [TOP / "README.md", *sorted((TOP / "docs").glob("*.md"))]
# what a page needs and its reader has stands in a comment of the page: <!-- sql … -->
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$|^<!-- (sql)\n(.*?)^-->$", re.M | re.S)


def name(page):
    return str(page.relative_to(TOP))


def blocks(page):
    """(language, text) of every block of code, in order."""
    return [(m[1] if m[3] is None else m[3], m[2] if m[3] is None else m[4]) for m in BLOCK.finditer(page.read_text())]


def all_blocks():
    return [block for page in PAGES for block in blocks(page)]


def everything():
    return "".join(page.read_text() for page in PAGES)
