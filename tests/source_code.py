"""What the project's own source says about itself, read without importing it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
FLOORS = ("dsrg", "tasks", "flows")
# shared by all stages; how they work changes no result
INFRASTRUCTURE = frozenset(
    f"tasks/{name}.py"
    for name in (
        "__init__",
        "cluster",
        "console",
        "cores",
        "errors",
        "graph",
        "journal",
        "lifetime",
        "locking",
        "meeting",
        "params",
        "prepared",
        "schema",
        "shards",
        "study",
        "tracking",
        "tracking_entries",
        "tracking_model",
        "tracking_places",
        "tracking_pyfunc",
        "tracking_spool",
        "workspace",
    )
)

_METHODS = frozenset({"model_dump", "items", "keys", "values", "index"})


def list_modules(floor: str) -> list[Path]:
    """List a floor's modules, relative to the project."""
    return sorted(path.relative_to(PROJECT) for path in (PROJECT / floor).rglob("*.py"))


@cache
def parse(module: Path) -> ast.Module:
    return ast.parse((PROJECT / module).read_text(encoding="utf-8"))


def list_imports(module: Path) -> set[str]:
    """List the dotted names a module imports anywhere, also within functions."""
    names: set[str] = set()
    for node in ast.walk(parse(module)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def list_top_level_imports(module: Path) -> set[str]:
    """List the packages that importing a module pulls in at once."""
    names: set[str] = set()
    for node in parse(module).body:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


def find_own_imports(module: Path) -> set[Path]:
    """Find the project's own modules that a module imports, packages' ``__init__`` included."""
    found: set[Path] = set()
    for name in list_imports(module):
        parts = name.split(".")
        if parts[0] in FLOORS:
            for end in range(1, len(parts) + 1):
                base = Path(*parts[:end])
                found |= {
                    path
                    for path in (base.with_suffix(".py"), base / "__init__.py")
                    if (PROJECT / path).is_file()
                }
    return found


def collect_code(module: Path, *, stop: frozenset[str]) -> set[str]:
    """Collect a module and every own module it needs, not looking into those of `stop`."""
    seen: set[Path] = set()
    waiting = [module]
    while waiting:
        current = waiting.pop()
        if current not in seen and current.as_posix() not in stop:
            seen.add(current)
            waiting += find_own_imports(current)
    return {path.as_posix() for path in seen}


def list_param_reads(stage: str) -> set[str]:
    """List the dotted params a stage reads, in its module and in what that uses of shared ones.

    ``params.train.lr`` gives ``train.lr``. A local name bound to a section (``settings = params.train``)
    stands for that section; what is never looked into counts as read whole.
    """
    module = Path(f"tasks/{stage}.py")
    waiting: list[tuple[Path, ast.AST]] = [(module, parse(module))]
    seen: set[int] = set()
    reads: set[str] = set()
    while waiting:
        place, node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        reads |= _list_reads(node)
        waiting += _find_used_definitions(place, node)
    return reads


def _find_used_definitions(module: Path, node: ast.AST) -> Iterator[tuple[Path, ast.AST]]:
    """Find the functions and classes of tasks/ that `node` mentions by name."""
    homes = {
        child.name: module
        for child in parse(module).body
        if isinstance(child, ast.FunctionDef | ast.ClassDef)
    }
    for child in ast.walk(parse(module)):
        if isinstance(child, ast.ImportFrom) and (child.module or "").startswith("tasks."):
            home = Path(*(child.module or "").split(".")).with_suffix(".py")
            if home.as_posix() not in INFRASTRUCTURE:
                homes |= {alias.name: home for alias in child.names}
    names = {child.id for child in ast.walk(node) if isinstance(child, ast.Name)} & set(homes)
    for name in names:
        for child in parse(homes[name]).body:
            if isinstance(child, ast.FunctionDef | ast.ClassDef) and child.name == name:
                yield homes[name], child


def _list_reads(tree: ast.AST) -> set[str]:
    bound = {"params": ""}
    aliases: set[int] = set()
    looked_into = {_chain(node)[0] for node in ast.walk(tree) if len(_chain(node)) > 1}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            chain = _chain(node.value)
            if len(chain) > 1 and chain[0] == "params" and node.targets[0].id in looked_into:
                bound[node.targets[0].id] = ".".join(chain[1:])
                aliases.add(id(node.value))
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    reads: set[str] = set()
    for node in ast.walk(tree):
        chain = _chain(node)
        if len(chain) > 1 and chain[0] in bound and id(node) not in inner | aliases:
            rest = [part for part in chain[1:] if part not in _METHODS]
            reads.add(".".join(filter(None, [bound[chain[0]], *rest])))
    return reads - {""}


def _chain(node: ast.AST) -> list[str]:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return [node.id, *reversed(parts)] if isinstance(node, ast.Name) else []


def iterate_strings(module: Path) -> Iterator[str]:
    """Iterate over a module's strings that are no docstrings."""
    docs = {
        id(node.body[0].value)
        for node in ast.walk(parse(module))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(parse(module)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value


def list_argument_names(floor: str) -> set[str]:
    """List the names of all arguments of a floor's functions."""
    return {
        argument.arg
        for module in list_modules(floor)
        for node in ast.walk(parse(module))
        if isinstance(node, ast.FunctionDef)
        for argument in [*node.args.args, *node.args.kwonlyargs]
    }
