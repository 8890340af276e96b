"""The glossary defines the words of the engine, and each word only once."""

import re

from tests.names import ROOT, classes, modules

TEXT = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in TEXT.splitlines()
    if line.startswith("| ") and not re.match(r"\| --- |.*\| meaning \|$", line)
]
# Error classes explain themselves by names that end in this word.
ERROR = "Error"


def engine_classes() -> set[str]:
    return {
        node.name
        for module in modules().values()
        if module.package == "service.engine" or module.name == "models.batcher"
        for node in classes(module)
        if not node.name.startswith("_") and not node.name.endswith(ERROR)
    }


def test_the_glossary_has_every_class_of_the_engine() -> None:
    named = set(re.findall(r"`(\w+)`", " ".join(cell for row in ROWS for cell in row[:-1])))
    wanted = engine_classes()
    assert {"Supervisor", "Ticket", "Admit"} <= wanted
    assert wanted - named == set()


def test_the_word_for_a_class_is_its_name() -> None:
    for word, name, _ in (row for row in ROWS if len(row) == 3):
        if name and name != "`Decoder`":
            assert re.sub(r"(?<!^)(?=[A-Z])", " ", name.strip("`")).lower() == word


def test_each_word_is_defined_once() -> None:
    words = [word.strip() for row in ROWS for word in re.split(r", (?![^(]*\))", row[0])]
    assert sorted(words) == sorted(set(words))
    assert all(row[-1] for row in ROWS)
