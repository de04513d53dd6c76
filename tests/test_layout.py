"""The floors of the library hold: imports go down only, in no circle, and no module or function outgrows a reader."""

import ast
from pathlib import Path

from tests.conftest import ROOT

# From the ground up. A module imports from its own wing and from lower floors; `scdmc` itself and `scdmc.modeling` are
# faces.
FLOORS = (
    ("errors", "version", "options", "resources"),
    ("files", "labels", "configuration"),
    ("genes", "reports"),
    ("reading",),
    ("tokens", "public_data"),
    ("model",),
    ("cells",),
    ("training",),
    ("annotation", "integration"),
    ("gene_analysis", "studies", "text"),
    ("cli",),
)
FLOOR_OF = {wing: floor for floor, wings in enumerate(FLOORS) for wing in wings}
FACES = ("scdmc", "scdmc.__main__", "scdmc.modeling")
MODULES = sorted((ROOT / "scdmc").rglob("*.py"))


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


NAMES = {dotted(path) for path in MODULES}


def imports_of(path: Path) -> set[str]:
    """Modules of the library that a module imports, wherever the import stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            submodules = {f"{node.module}.{alias.name}" for alias in node.names} & NAMES
            found |= submodules or {node.module}
    return {name for name in found if name in NAMES}


def wing(module: str) -> str:
    return module.split(".")[1]


def test_every_wing_has_a_floor():
    assert {wing(name) for name in NAMES if name not in FACES} <= set(FLOOR_OF)


def test_imports_go_down_only():
    wrong = [
        f"{dotted(path)} imports {imported}"
        for path in MODULES
        for imported in imports_of(path)
        if dotted(path) not in FACES
        and (
            imported in FACES
            or (wing(imported) != wing(dotted(path)) and FLOOR_OF[wing(imported)] >= FLOOR_OF[wing(dotted(path))])
        )
    ]
    assert not wrong, "\n".join(wrong)
