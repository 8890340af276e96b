"""What files state of their labels and their normalisation, in the forms that people use."""

import ast
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

# Bytes of a list of labels.
_LONGEST = 2**22


def read_labels(stated: Any) -> tuple[str, ...]:
    """Return the labels in their order.

    Args:
        stated: a list of names, or names by their numbers from 0; or either as JSON or as Python
            writes it; or names separated by lines or commas.

    Returns:
        The names; one that comes twice is followed by its number, because labels must differ.

    Raises:
        ValueError: it is something else, or numbers are missing.
    """
    found = _parsed(stated) if isinstance(stated, str) else stated
    if isinstance(found, str):
        found = [name.strip() for name in found.split("\n" if "\n" in found else ",")]
    if isinstance(found, Mapping):
        try:
            by_number = {int(number): name for number, name in found.items()}
        except (TypeError, ValueError):
            raise ValueError("labels: expected names by their numbers") from None
        if set(by_number) != set(range(len(found))):
            raise ValueError(f"labels: expected the numbers 0 to {len(found) - 1}, each once")
        found = [by_number[number] for number in range(len(found))]
    if not isinstance(found, Sequence) or not all(isinstance(name, str) for name in found):
        raise ValueError("labels: expected a list of names, or names by their numbers")
    times = Counter(found)
    return tuple(
        f"{name} ({number})" if times[name] > 1 else name for number, name in enumerate(found)
    )


def read_numbers(name: str, stated: Any) -> tuple[float, ...] | None:
    """Return the numbers of a list, or of its text; None if nothing is stated.

    Raises:
        ValueError: it is something else.
    """
    if stated is None:
        return None
    found = (
        _parsed(f"[{stated}]" if "[" not in stated else stated)
        if isinstance(stated, str)
        else stated
    )
    if isinstance(found, int | float):
        found = [found]
    if not isinstance(found, Sequence) or not all(isinstance(one, int | float) for one in found):
        raise ValueError(f"{name}: expected a list of numbers, not {stated!r:.80}")
    return tuple(map(float, found))


def _parsed(text: str) -> Any:
    """Return what JSON or a Python literal says, or the text if it is neither."""
    if len(text) > _LONGEST:
        raise ValueError(f"holds a list of more than {_LONGEST:,} characters")
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return text
