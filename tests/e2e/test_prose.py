"""The pages are plain: short sentences, no parentheses within parentheses, links that lead somewhere. No server is needed."""

import re

import pytest
from conftest import TOP
from docs_helpers import PAGES, name

LONGEST = 25
pytestmark = pytest.mark.once
# made from the COMMENTs of the objects, so it is their language
BY_HAND = [page for page in [*PAGES, *(TOP / file for file in ("CHANGELOG.md", "CONTRIBUTING.md", "bench/README.md"))] if page.name != "reference.md"]


def prose(text):
    """Paragraphs and items of lists, without code, tables, headings, pictures and comments."""
    text = re.sub(r"^ *```.*?^ *```$|<!--.*?-->|<[^>\n]+>", "", text, flags=re.M | re.S)
    lines = [line for line in text.split("\n") if not re.match(r"^\s*\||^#|^    \S", line)]
    for paragraph in re.split(r"\n\s*\n|\n\s*(?=[-*] |\d+\. )", "\n".join(lines)):
        words = " ".join(paragraph.split())
        words = re.sub(r"^([-*]|\d+\.) ", "", words)
        if words:
            yield words


def plain(paragraph):
    """Code is one word, and so is a list of names in code; of a link its text is read."""
    paragraph = re.sub(r"!?\[((?:[^\[\]]|\[[^\]]*\])*)\]\([^)]*\)", r"\1", paragraph)
    paragraph = re.sub(r"`[^`]*`", "CODE", paragraph)
    return re.sub(r"CODE(?:(?:, and |, or |, | and | or )CODE)+", "CODE", paragraph)


def sentences(paragraph):
    return [s for s in re.split(r"(?<=[.!?])[*)_\"]*\s+(?=[A-Z0-9*\"(_])", plain(paragraph)) if s]


def words(sentence):
    return [word for word in sentence.split() if re.search(r"\w", word)]


def anchors(page):
    """As GitHub makes them of headings."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    made = [re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", heading).strip().lower()).replace(" ", "-") for heading in re.findall(r"^#+ (.*)$", text, re.M)]
    return set(made) | set(re.findall(r'<a (?:id|name)="([^"]+)"', text))


@pytest.mark.parametrize("page", BY_HAND, ids=name)
def test_sentences_are_short(page):
    long = [(len(words(s)), s) for p in prose(page.read_text()) for s in sentences(p) if len(words(s)) > LONGEST]
    assert long == [], "\n".join(f"{count} words: {s}" for count, s in long)


@pytest.mark.parametrize("page", BY_HAND, ids=name)
def test_no_parentheses_within_parentheses(page):
    assert [p for p in prose(page.read_text()) if re.search(r"\([^()]*\(", re.sub(r"\(\)", "", plain(p)))] == []


@pytest.mark.parametrize("page", BY_HAND + [TOP / "docs" / "reference.md"], ids=name)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    lost = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text):
        if re.match(r"https?:", target):
            continue
        file, _, anchor = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            lost.append(target)
    assert lost == []


@pytest.mark.parametrize("page", [page for page in BY_HAND if page.name != "CHANGELOG.md"], ids=name)
def test_files_that_are_named_exist(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    named = {path for path in re.findall(r"`((?:bench|crates|docs|relay|scripts|sql|src|tests)/[\w/.@-]*)`", text)}
    named |= {f"tests/e2e/{test}.py" for test in re.findall(r"`(test_\w+)`", text)} | {f"tests/pg_regress/sql/{test}" for test in re.findall(r"`(\w+\.sql)`", text)}
    assert [path for path in sorted(named) if not (TOP / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_diagrams_are_such_that_mermaid_draws(page):
    for drawn in re.findall(r"^```mermaid\n(.*?)^```$", page.read_text(), re.M | re.S):
        assert re.match(r"flowchart (LR|TD)\n|sequenceDiagram\n", drawn)
        nodes = re.findall(r"(\w+)(?:\[|\{)", drawn) + re.findall(r"(?:-->|-\.->)\s*(\w+)$", drawn, re.M)
        assert [node for node in nodes if node in ("call", "class", "classDef", "click", "default", "end", "graph", "href", "style", "subgraph")] == []
        assert drawn.count("subgraph ") == len(re.findall(r"^\s*end$", drawn, re.M))
        assert [line for line in drawn.split("\n") if line.count('"') % 2] == []


def test_the_front_door_is_small():
    assert len((TOP / "README.md").read_text().splitlines()) <= 250


def test_every_page_is_reachable_from_the_front_door():
    seen, ahead = set(), [TOP / "README.md"]
    while ahead:
        page = ahead.pop()
        if page in seen or page.suffix != ".md" or not page.exists():
            continue
        seen.add(page)
        ahead += [(page.parent / target).resolve() for target in re.findall(r"\]\(([^)\s#:]+)", page.read_text())]
    assert [name(page) for page in PAGES if page not in seen] == []
    assert TOP / "bench" / "README.md" in seen


def test_the_rules_notice_what_they_are_for():
    assert len(words(sentences("One two. A" + " word" * 25 + ".")[1])) == 26
    assert len(list(prose("a\n\n```sql\nSELECT 1\n```\n| t |\n- b\n- c"))) == 3
    assert words(plain("see `a b c`, `d` and `e`")) == ["see", "CODE"]
