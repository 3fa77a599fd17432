"""What the tests of the sources share: which files there are, and when a sentence is plain English."""

import pathlib
import re
import subprocess

TOP = pathlib.Path(__file__).resolve().parents[2]
LONGEST_SENTENCE = 25

TRACKED = [TOP / name for name in subprocess.run(["git", "ls-files"], cwd=TOP, capture_output=True, text=True).stdout.split("\n") if name]
# of an archive of the project all files
# scripts/update_script makes them of statements that stand in other sources
MADE = "sql/audit_cdc--"
SOURCES = [path for path in TRACKED or sorted(TOP.rglob("*")) if path.is_file() and not str(path.relative_to(TOP)).startswith(MADE) and not {"target", ".git"} & set(path.relative_to(TOP).parts)]


def name(path):
    return str(path.relative_to(TOP))


def named(suffix, *folders):
    """Of these folders, or of all, the files whose names end so."""
    found = [path for path in SOURCES if path.suffix == suffix and (not folders or path.relative_to(TOP).parts[0] in folders)]
    assert found
    return found


def plain(paragraph):
    """Code is one word, and so is a list of names in code; of a link its text is read."""
    paragraph = re.sub(r"!?\[((?:[^\[\]]|\[[^\]]*\])*)\]\([^)]*\)", r"\1", paragraph)
    paragraph = re.sub(r"`[^`]*`", "CODE", paragraph)
    return re.sub(r"CODE(?:(?:, and |, or |, | and | or )CODE)+", "CODE", paragraph)


def sentences(paragraph, begins=r"A-Z0-9*\"(_"):
    return [sentence for sentence in re.split(rf"(?<=[.!?])[*)_\"]*\s+(?=[{begins}])", plain(paragraph)) if sentence]


def words(sentence):
    return [word for word in sentence.split() if re.search(r"\w", word)]


def has_nested_parentheses(paragraph):
    return re.search(r"\([^()]*\(", re.sub(r"\(\)", "", plain(paragraph))) is not None
