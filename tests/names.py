"""The project's modules, read from their source without importing them."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("models", "service")


@dataclass(frozen=True)
class Module:
    """One module: its path, its source, and whether it is a package's ``__init__``."""

    name: str
    path: Path
    tree: ast.Module = field(repr=False)

    @property
    def package(self) -> str:
        return self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]


def modules() -> dict[str, Module]:
    """Return every module of the project's packages, by its dotted name."""
    found = {}
    for path in sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = Module(name, path, ast.parse(path.read_text(encoding="utf-8"), str(path)))
    return found


def classes(module: Module) -> list[ast.ClassDef]:
    return [node for node in module.tree.body if isinstance(node, ast.ClassDef)]


def members(body: list[ast.stmt]) -> Iterator[tuple[str, list[ast.stmt]]]:
    """Yield each name that a module or a class defines, with its body if it is a class."""
    for node in body:
        match node:
            case ast.ClassDef(name=name, body=inner):
                yield name, inner
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name, []
            case ast.Assign(targets=targets):
                names = [name for target in targets for name in ast.walk(target)]
                yield from ((name.id, []) for name in names if isinstance(name, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name, []
            case ast.If(body=inner, orelse=orelse):
                yield from members([*inner, *orelse])
            case _:
                pass
