"""Modules import each other in one direction only: no file of Rust needs, by way of others, itself."""

import re

import pytest
from sources import TOP

CRATES = {
    "audit-core": TOP / "crates/core/src/lib.rs",
    "audit-keeper": TOP / "crates/keeper/src/main.rs",
    "audit-relay": TOP / "crates/relay/src/main.rs",
    "audit_cdc": TOP / "src/lib.rs",
}

STRINGS_AND_COMMENTS = re.compile(r'//[^\n]*|b?r#"(?:.|\n)*?"#|c?b?"(?:\\(?:.|\n)|[^"\\])*"|/\*(?:.|\n)*?\*/|b?\'(?:\\.|[^\'\\])\'')
TEST_CODE = re.compile(r"^[ \t]*#\[cfg\(test\)\]\n(?:[ \t]*(?:pub )?mod \w+;\n|(?P<indent>[ \t]*)(?:[^\n]*\{\n(?:.|\n)*?^(?P=indent)\}\n|[^\n]*;\n))", re.M)
MODULE = re.compile(r"^\s*(?:#\[[^\]]*\]\s*)*(?:pub(?:\([^)]*\))? )?mod (\w+);", re.M)
USE = re.compile(r"^[ \t]*(pub(?:\([^)]*\))? )?use ([^;]+);", re.M)
PATH = re.compile(r"\b(?:\w+::)+\w+")


def leaves(tree, before=()):
    """Of `a::{b, c::d as e}`: the paths, and the name of each."""
    tree = tree.strip()
    found = re.match(r"((?:\w+::)*)\{(.*)\}$", tree, re.S)
    if not found:
        path, _, name = tree.partition(" as ")
        parts = before + tuple(path.strip().split("::"))
        parts = parts[:-1] if parts[-1] == "self" and len(parts) > 1 else parts
        return [(parts, name.strip() or parts[-1])]
    head = before + tuple(found[1].split("::")[:-1])
    depth, start, parts = 0, 0, []
    for place, character in enumerate(found[2] + ","):
        depth += (character == "{") - (character == "}")
        if character == "," and depth == 0:
            parts.append(found[2][start:place])
            start = place + 1
    return [leaf for part in parts if part.strip() for leaf in leaves(part, head)]


class Crate:
    def __init__(self, root):
        self.files, self.text, self.names = {}, {}, {}
        self.read((), root, root.parent)
        for module, text in self.text.items():
            self.names[module] = {}
            for _, tree in USE.findall(text):
                for path, name in leaves(tree):
                    self.names[module].setdefault(name, []).append(path)

    def read(self, module, file, folder):
        text = TEST_CODE.sub("", STRINGS_AND_COMMENTS.sub('""', file.read_text()))
        self.files[module], self.text[module] = file, text
        for child in MODULE.findall(text):
            flat, nested = folder / f"{child}.rs", folder / child / "mod.rs"
            self.read((*module, child), flat if flat.exists() else nested, folder / child)

    def target(self, module, path, seen=frozenset()):
        """The module in which what `path` names is written, seen from `module`; None: in another crate."""
        if (module, path) in seen:
            return None
        seen |= {(module, path)}
        head, rest = path[0], path[1:]
        if head == "crate":
            return self.within((), rest, seen)
        if head == "self":
            return self.within(module, rest, seen)
        if head == "super":
            return self.within(module[:-1], rest, seen)
        if (*module, head) in self.files:
            return self.within((*module, head), rest, seen)
        for known in self.names[module].get(head, []):
            if known[0] != head and (found := self.target(module, known + rest, seen)) is not None:
                return found
        return None

    def within(self, module, path, seen):
        if not path:
            return module
        if path[0] == "super":
            return self.within(module[:-1], path[1:], seen)
        if (*module, path[0]) in self.files:
            return self.within((*module, path[0]), path[1:], seen)
        for known in self.names[module].get(path[0], []) + self.names[module].get("*", []):
            rest = path if known[-1] == "*" else path[1:]
            found = self.target(module, (known[:-1] if known[-1] == "*" else known) + rest, seen)
            if found is not None and (known[-1] != "*" or self.defines(found, path[0])):
                return found
        return module

    def defines(self, module, name):
        return re.search(rf"\b(?:fn|struct|enum|const|static|type|trait|mod|macro_rules!)\s+{name}\b", self.text[module])

    def imports(self, module):
        text = self.text[module]
        # what is only handed on is wiring
        paths = [path for handed_on, tree in USE.findall(text) if not handed_on for path, _ in leaves(tree)]
        paths += [tuple(path.split("::")) for path in PATH.findall(USE.sub("", text))]
        found = {self.target(module, path[:-1] if path[-1] == "*" else path) for path in paths}
        return found - {None, module}


def circles(imports):
    """Sets of modules each of which needs all the others of its set."""
    def reached(start):
        met, waiting = set(), [start]
        while waiting:
            for other in imports[waiting.pop()] - met:
                met.add(other)
                waiting.append(other)
        return met
    reach = {module: reached(module) for module in imports}
    return {frozenset(other for other in reach[module] if module in reach[other]) for module in imports if module in reach[module]}


@pytest.mark.parametrize("name", CRATES)
def test_modules_do_not_import_each_other_in_a_circle(name):
    crate = Crate(CRATES[name])
    imports = {module: crate.imports(module) for module in crate.files}
    assert sum(map(len, imports.values())) > len(imports) / 2, "the imports were not understood"
    found = [sorted(str(crate.files[module].relative_to(TOP)) for module in circle) for circle in circles(imports)]
    assert found == []


def test_a_circle_is_found(tmp_path):
    for file, text in {
        "lib.rs": "mod a;\nmod b;\nmod c;\npub use a::one;\n",
        "a.rs": "use crate::b::two;\npub fn one() { two() }\n",
        "b/mod.rs": "mod d;\npub use d::two;\n",
        "b/d.rs": "pub fn two() { crate::c::three() }\n",
        "c.rs": "// use crate::b::two;\npub fn three() {}\n#[cfg(test)]\nmod tests {\n    use crate::one;\n}\n",
    }.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(text)

    def found():
        crate = Crate(tmp_path / "lib.rs")
        return circles({module: crate.imports(module) for module in crate.files})

    assert found() == set()
    (tmp_path / "c.rs").write_text("use super::one;\npub fn three() { one() }\n")
    assert found() == {frozenset({("a",), ("b", "d"), ("c",)})}
