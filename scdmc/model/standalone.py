"""The model as one Python file that needs torch and transformers only, written into every model folder.

``AutoModel.from_pretrained(folder, trust_remote_code=True)`` runs that file where scDMC is not installed. The file is
made of this library's own source: the definitions that the model classes need, one after the other.
"""

import ast
import importlib.resources
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scdmc.files import atomic_path
from scdmc.model.names import MODELING_FILE
from scdmc.version import __version__

# What transformers' Auto classes open -> the class that does it; the value of "auto_map" in config.json.
AUTO_CLASSES = {
    "AutoConfig": "ScDMCConfig",
    "AutoModel": "ScDMCModel",
    "AutoModelForMaskedLM": "ScDMCForMaskedLM",
    "AutoModelForSequenceClassification": "ScDMCForCellClassification",
}
AUTO_MAP = {auto_class: f"{Path(MODELING_FILE).stem}.{name}" for auto_class, name in AUTO_CLASSES.items()}


# In an order in which each needs only those before it.
SOURCES = (
    "errors.py", "options.py", "configuration.py", "genes/vocabulary.py", "model/layout.py", "model/attention.py",
    "model/packing.py", "model/encoder.py", "model/heads.py",
)  # fmt: skip


HEADER = '''"""The scDMC model in one file, for transformers' Auto classes where scDMC itself is not installed.

Needs torch and transformers: AutoModel.from_pretrained(FOLDER, trust_remote_code=True).
Made by scDMC {version} from its source (MIT licence); change the source, not this file.
"""
'''


@dataclass(frozen=True)
class _Definition:
    """A statement of a module: the names that it binds, the names that it reads, and its lines."""

    binds: frozenset[str]
    reads: frozenset[str]
    text: str
    is_import: bool


def write_standalone_model(folder: Path) -> None:
    """Write :data:`MODELING_FILE` into a model folder."""
    with atomic_path(Path(folder) / MODELING_FILE) as temporary:
        temporary.write_text(standalone_source(), encoding="utf8")


def standalone_source() -> str:
    """Text of the file: what the classes of :data:`AUTO_CLASSES` need of :data:`SOURCES`, and nothing else.

    Raises
    ------
    ValueError
        If two of the modules define one name in two ways, or need a name of a module that is not among them.
    """
    definitions = [found for source in SOURCES for found in _definitions(source)]
    by_name: dict[str, set[_Definition]] = {}
    for definition in definitions:
        for name in definition.binds:
            by_name.setdefault(name, set()).add(definition)
    for name, found in by_name.items():
        if len(found) > 1 and not all(definition.is_import for definition in found):
            raise ValueError(f"two modules of {', '.join(SOURCES)} mean different things by {name}; rename one")
    needed: set[_Definition] = set()
    waiting = set().union(*(by_name[name] for name in AUTO_CLASSES.values()))
    while waiting:
        needed |= waiting
        names = set().union(*(definition.reads for definition in waiting))
        waiting = set().union(*(by_name.get(name, ()) for name in names)) - needed
    missing = set().union(*(definition.reads for definition in needed)) & set().union(*map(_own_imports, SOURCES))
    if missing - set(by_name):
        raise ValueError(f"no module of {', '.join(SOURCES)} defines {', '.join(sorted(missing - set(by_name)))}")
    imports = sorted({definition.text for definition in needed if definition.is_import})
    bodies = [definition.text for definition in definitions if definition in needed and not definition.is_import]
    return "\n".join([HEADER.format(version=__version__), *imports]) + "\n\n\n" + "\n\n\n".join(bodies) + "\n"


def _definitions(source: str) -> Iterator[_Definition]:
    """What a module defines, statement by statement, with the comments above; imports name by name.

    Imports from scdmc itself are left out: what they name is defined in the same file.
    """
    text = (importlib.resources.files("scdmc") / source).read_text(encoding="utf8")
    lines, end = text.splitlines(), 0
    for node in ast.parse(text).body:
        start, end = end, node.end_lineno
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from _imports(node)
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.Assign):
            names = {child for child in ast.walk(node) if isinstance(child, ast.Name)}
            bound = {node.name} if hasattr(node, "name") else _targets(node)
            read = frozenset(name.id for name in names) - bound
            yield _Definition(frozenset(bound), read, "\n".join(lines[start:end]).strip(), is_import=False)


def _own_imports(source: str) -> set[str]:
    """What a module takes from other modules of scdmc."""
    nodes = ast.walk(ast.parse((importlib.resources.files("scdmc") / source).read_text(encoding="utf8")))
    imports = (node for node in nodes if isinstance(node, ast.ImportFrom) and node.module.startswith("scdmc"))
    return {alias.asname or alias.name for node in imports for alias in node.names}


def _imports(node: ast.Import | ast.ImportFrom) -> Iterator[_Definition]:
    for alias in node.names:
        if isinstance(node, ast.Import):
            statement = ast.Import([alias])
        elif node.module.partition(".")[0] != "scdmc":
            statement = ast.ImportFrom(node.module, [alias], 0)
        else:
            continue
        bound = alias.asname or alias.name.partition(".")[0]
        yield _Definition(frozenset([bound]), frozenset(), ast.unparse(statement), is_import=True)


def _targets(node: ast.Assign) -> set[str]:
    return {name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)}
