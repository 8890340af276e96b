"""Which modules may import which, as docs/architecture.md says."""

import ast
import io
import subprocess
import sys
import tokenize
from collections.abc import Iterator

import pytest

from tests.names import ROOT, Module, modules

MODULES = modules()

# For each part of the project, what its modules may not import, not even inside a function.
FORBIDDEN = {
    "models": ("service",),
    "models.certification": ("torch", "torchvision", "PIL", "pydantic"),
    "models.images": ("torch", "torchvision"),
    "service.decoding": ("torch", "torchvision"),
    "service.engine": ("service.http", "service.cli", "fastapi", "starlette", "uvicorn", "h11"),
    "service.http": ("torch", "torchvision", "service.cli"),
    "service.system": ("models", "service.engine", "service.http", "service.decoding"),
}
# The most lines of code in a function, without docstring, comments and blank lines, and without the
# options that a command declares.
MOST_LINES = 60
# Packages that take long to import and that few commands need.
HEAVY = ("torch", "torchvision", "numpy", "scipy", "fastapi", "pydantic", "PIL", "uvicorn")


def imports(module: Module, body: list[ast.stmt], *, everywhere: bool) -> Iterator[str]:
    """Yield what a module imports: modules, and names in modules, dotted.

    Args:
        module: the module.
        body: its statements.
        everywhere: include imports inside functions and those only for type checkers; otherwise
        only those that run when the module is imported.
    """
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = module.package.split(".")[: -node.level + 1 or None] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{source}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not everywhere:
            continue
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from imports(
                module, [*(node.body if everywhere else []), *node.orelse], everywhere=everywhere
            )
        else:
            for inner in ("body", "orelse", "finalbody"):
                yield from imports(module, getattr(node, inner, []), everywhere=everywhere)
            for clause in [*getattr(node, "handlers", []), *getattr(node, "cases", [])]:
                yield from imports(module, clause.body, everywhere=everywhere)


def within(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


def needs(module: Module, *, everywhere: bool = False) -> set[str]:
    """Return the project's modules that ``module`` needs when it is imported, or ever."""
    found = set()
    for name in imports(module, module.tree.body, everywhere=everywhere):
        parent = name.rpartition(".")[0]
        found |= {name} & MODULES.keys() or {parent} & MODULES.keys()
    return found - {module.name}


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Return a path from some module back to itself; empty if there is none."""
    done: set[str] = set()

    def search(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return []
        for other in sorted(graph[name]):
            if found := search(other, [*way, name]):
                return found
        done.add(name)
        return []

    return next(filter(None, (search(name, []) for name in sorted(graph))), [])


@pytest.mark.parametrize("part", FORBIDDEN)
def test_no_part_imports_what_it_must_not_know(part: str) -> None:
    wrong = [
        (module.name, name)
        for module in MODULES.values()
        if within(module.name, part)
        for name in imports(module, module.tree.body, everywhere=True)
        if any(within(name, other) for other in FORBIDDEN[part])
    ]
    assert wrong == []


def test_certification_needs_only_numpy_and_scipy() -> None:
    part = "models.certification"
    wrong = [
        (module.name, name)
        for module in MODULES.values()
        if within(module.name, part)
        for name in imports(module, module.tree.body, everywhere=True)
        if not within(name, part)
        and name.partition(".")[0] not in {"numpy", "scipy", *sys.stdlib_module_names}
    ]
    assert wrong == []


def literals(tree: ast.AST) -> Iterator[frozenset[object]]:
    """Yield the values of each ``Literal`` with at least two."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal":
            try:
                values = ast.literal_eval(node.slice)
            except ValueError:  # made elsewhere, as the names of laws are by their registry
                continue
            if isinstance(values, tuple):
                yield frozenset(values)


def test_vocabularies_of_certification_are_defined_nowhere_else() -> None:
    own = "models.certification.names"
    vocabularies = set(literals(MODULES[own].tree))
    assert {"l1", "l2", "linf"} in vocabularies
    again = [
        (name, sorted(map(str, values)))
        for name, module in MODULES.items()
        for values in literals(module.tree)
        if name != own and values in vocabularies
    ]
    assert again == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {name: needs(module) for name, module in MODULES.items()}
    assert sum(map(len, graph.values())) > len(graph)  # imports were found at all
    assert circle(graph) == []


def test_no_circle_in_the_engine_hides_in_types_or_functions() -> None:
    own = {name for name in MODULES if within(name, "service.engine")}
    graph = {name: needs(MODULES[name], everywhere=True) & own for name in own}
    assert "service.engine.loop" in graph["service.engine.worker"]  # imported inside a function
    assert circle(graph) == []


def test_a_circle_is_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"d", "b"}, "d": set()}
    assert circle(graph) == ["b", "c", "b"]
    assert circle({**graph, "c": {"d"}}) == []


@pytest.mark.parametrize(
    ("source", "top", "everywhere"),
    [
        ("import torch", {"torch"}, {"torch"}),
        ("from models import noise", {"models.noise"}, {"models.noise"}),
        ("from . import terms", {"models.x.terms"}, {"models.x.terms"}),
        ("from ..y import z", {"models.y.z"}, {"models.y.z"}),
        ("def f():\n  import torch", set(), {"torch"}),
        ("if TYPE_CHECKING:\n  import torch", set(), {"torch"}),
        ("try:\n  import a\nexcept E:\n  import b", {"a", "b"}, {"a", "b"}),
        ("class C:\n  import a", {"a"}, {"a"}),
        ("with x:\n  import a", {"a"}, {"a"}),
        ("match x:\n  case 1:\n    import a", {"a"}, {"a"}),
    ],
)
def test_imports_are_found(source: str, top: set[str], everywhere: set[str]) -> None:
    module = Module("models.x.m", ROOT / "models" / "x" / "m.py", ast.parse(source))
    assert set(imports(module, module.tree.body, everywhere=False)) == top
    assert set(imports(module, module.tree.body, everywhere=True)) == everywhere


def loaded_by(*names: str) -> set[str]:
    """Return all modules that are loaded in a new process that imports ``names``."""
    program = f"import {', '.join(names)}, sys; print(*sys.modules)"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_command_line_imports_nothing_heavy() -> None:
    loaded = loaded_by(*(name for name in MODULES if within(name, "service.cli")))
    assert "service.cli.main" in loaded
    assert loaded & set(HEAVY) == set()


def test_the_front_process_does_without_torch() -> None:
    loaded = loaded_by("service.http.server", "service.decoding.process")
    assert "fastapi" in loaded
    assert loaded & {"torch", "torchvision"} == set()


def test_certification_loads_nothing_of_the_project() -> None:
    names = [name for name in MODULES if within(name, "models.certification")]
    loaded = loaded_by(*names)
    own = {name for name in loaded if name.partition(".")[0] in ("models", "service")}
    assert own == {"models", *names}
    assert "torch" not in loaded


def sizes(source: str) -> Iterator[tuple[str, int]]:
    """Yield each function of a module, with its number of lines of code."""
    layout = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    lines = {
        line
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type not in layout
        for line in range(token.start[0], token.end[0] + 1)
    }
    functions = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            functions.append(node)
            if ast.get_docstring(node) is not None:
                text = node.body[0]
                lines -= set(range(text.lineno, (text.end_lineno or text.lineno) + 1))
    for function in functions:
        command = "typer.Option" in ast.unparse(function.args)
        first = function.body[0].lineno if command else function.lineno
        whole = range(first, (function.end_lineno or first) + 1)
        yield function.name, len(lines.intersection(whole))


def test_no_function_is_too_long_to_follow() -> None:
    paths = [module.path for module in MODULES.values()]
    paths += (ROOT / "client" / "src").rglob("*.py")
    found = [
        (f"{path.relative_to(ROOT)} {name}", size)
        for path in paths
        for name, size in sizes(path.read_text(encoding="utf-8"))
    ]
    assert any(name.startswith("client/") for name, _ in found)
    assert {name for name, size in found if size > MOST_LINES} == set()


def test_lines_of_code_are_counted() -> None:
    source = '''
class A:
    async def f(
        self,
    ) -> int:
        """Says

        what it does."""
        # Why.

        def g() -> str:
            """Says nothing."""
            return """two
lines"""

        return len(g())

def command(
    many: Annotated[bool, typer.Option()] = False,
) -> None:
    f()
    f()
'''
    assert dict(sizes(source)) == {"f": 7, "g": 3, "command": 2}
