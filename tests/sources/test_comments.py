"""Comments are plain: short sentences, no parentheses within parentheses."""

import ast
import re

import pytest
from sources import LONGEST_SENTENCE, SOURCES, has_nested_parentheses, name, sentences, words

# what begins a comment; of Python docstrings are read too
MARKS = {".rs": "//[/!]?", ".sql": "--", ".py": "#", ".sh": "#", ".toml": "#"}


def mark_of(path):
    is_script = name(path).startswith("scripts/") and path.suffix == ""
    return "#" if is_script else MARKS.get(path.suffix)


READ = [path for path in SOURCES if mark_of(path) and not name(path).startswith(("tests/pg_regress/", "tests/corpus/"))]


def comments(text, mark):
    """Paragraphs, and items of lists, of lines that hold a comment only; and what stands behind code, but where a literal may hold it."""
    paragraph = []
    for line in [*text.split("\n"), ""]:
        whole = re.match(rf"\s*{mark}(?!!)(?: (.*))?$", line)
        begins_item = whole and re.match(r"[-*] |\d+\. ", whole[1] or "")
        if paragraph and (not whole or not whole[1] or begins_item):
            yield " ".join(" ".join(paragraph).split())
            paragraph = []
        if whole and whole[1]:
            paragraph.append(whole[1])
        elif behind := re.search(rf"\S\s+{mark} ([^\"']*)$", line):
            yield behind[1]


def docstrings(text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and (found := ast.get_docstring(node)):
            yield from (" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n|\n\s*(?=[-*] )", found))


def read(path):
    text = path.read_text()
    return [*comments(text, mark_of(path)), *(docstrings(text) if path.suffix == ".py" else [])]


def too_long(paragraphs):
    """A name may begin a sentence."""
    return [(len(words(sentence)), sentence) for paragraph in paragraphs for sentence in sentences(paragraph, begins=r"\w*\"(\[")
            if len(words(sentence)) > LONGEST_SENTENCE]


@pytest.mark.parametrize("kind", sorted({path.suffix for path in READ}))
def test_sentences_of_comments_are_short(kind):
    long = [(name(path), *found) for path in READ if path.suffix == kind for found in too_long(read(path))]
    assert long == [], "\n".join(f"{file}: {count} words: {sentence}" for file, count, sentence in long)


def test_no_parentheses_within_parentheses():
    assert [(name(path), paragraph) for path in READ for paragraph in read(path) if has_nested_parentheses(paragraph)] == []


def test_comments_are_found():
    words_ = "a " * 26
    assert list(comments(f"/// One\n/// two.\n///\n/// * Three\nlet x = 1; // four\nlet y = \"// five\";\n// {words_}", "//[/!]?")) == [
        "One two.", "* Three", "four", words_.strip()]
    assert len(too_long([words_, f"Short. {words_}", "Short. a b c. Short."])) == 2
