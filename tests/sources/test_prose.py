"""The pages are plain: short sentences, no parentheses within parentheses, links that lead somewhere. No server is needed."""

import re

import pytest
from sources import LONGEST_SENTENCE, SOURCES, TOP, has_nested_parentheses, name, named, plain, sentences, words

PAGES = [page for page in named(".md") if not name(page).startswith("tests/")]
# the reference is made from the COMMENTs of the objects, so it is their language
BY_HAND = [page for page in PAGES if page.name != "reference.md"]


def prose(text):
    """Paragraphs and items of lists, without code, tables, headings, pictures and comments."""
    text = re.sub(r"^ *```.*?^ *```$|<!--.*?-->|<[^>\n]+>", "", text, flags=re.M | re.S)
    lines = [line for line in text.split("\n") if not re.match(r"^\s*\||^#|^    \S", line)]
    for paragraph in re.split(r"\n\s*\n|\n\s*(?=[-*] |\d+\. )", "\n".join(lines)):
        words = " ".join(paragraph.split())
        words = re.sub(r"^([-*]|\d+\.) ", "", words)
        if words:
            yield words


def anchors(page):
    """As GitHub makes them of headings."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    made = [re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", heading).strip().lower()).replace(" ", "-") for heading in re.findall(r"^#+ (.*)$", text, re.M)]
    return set(made) | set(re.findall(r'<a (?:id|name)="([^"]+)"', text))


@pytest.mark.parametrize("page", BY_HAND, ids=name)
def test_sentences_are_short(page):
    long = [(len(words(s)), s) for p in prose(page.read_text()) for s in sentences(p) if len(words(s)) > LONGEST_SENTENCE]
    assert long == [], "\n".join(f"{count} words: {s}" for count, s in long)


@pytest.mark.parametrize("page", BY_HAND, ids=name)
def test_no_parentheses_within_parentheses(page):
    assert [p for p in prose(page.read_text()) if has_nested_parentheses(p)] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
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
    written = {path for path in re.findall(r"`((?:bench|crates|docs|relay|scripts|sql|src|tests)/[\w/.@-]*)`", text)}
    assert [path for path in sorted(written) if not (TOP / path).exists()] == []
    tests = set(re.findall(r"`(test_\w+)(?:\.py)?`", text)) | set(re.findall(r"`(\w+)\.sql`", text))
    assert tests - {path.stem for path in SOURCES if name(path).startswith("tests/")} == set()


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
