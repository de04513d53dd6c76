"""The floors of the library hold: imports go down only, in no circle; no folder, module or function is too large."""

import ast
from pathlib import Path

from tests.conftest import ROOT

# From the ground up. A module imports from its own wing and from lower floors; `scdmc` itself and `scdmc.modeling` are
# faces.
FLOORS = (
    ("errors", "version", "options", "resources", "file_names", "progress", "overlap"),
    ("locks", "dates"),
    ("files", "labels", "configuration", "disk", "memory"),
    ("result_folders",),
    ("genes", "reports"),
    ("reading",),
    ("tokens", "public_data"),
    ("model",),
    ("cells",),
    ("training",),
    ("annotation", "integration"),
    ("views", "shards"),
    ("gene_analysis", "studies", "text"),
    ("cli",),
)
FLOOR_OF = {wing: floor for floor, wings in enumerate(FLOORS) for wing in wings}
FACES = ("scdmc", "scdmc.__main__", "scdmc.modeling")
MOST_MODULES, MOST_LINES, MOST_LINES_OF_CODE, MOST_PARAMETERS = 25, 500, 60, 8
MODULES = sorted((ROOT / "scdmc").rglob("*.py"))
SCRIPTS = sorted(path for folder in ("prepare", "tokenizer", "pretrain", "downstream_tasks", "benchmarks")
                 for path in (ROOT / folder).glob("*.py"))  # fmt: skip


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
            assert node.level == 0, f"{path}: write the whole path of an import"
            submodules = {f"{node.module}.{alias.name}" for alias in node.names} & NAMES
            found |= submodules or {node.module}
    return {name for name in found if name in NAMES}


def functions_of(path: Path) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))) if isinstance(node, ast.FunctionDef)]


def docstring_lines(function: ast.FunctionDef) -> set[int]:
    """Lines of the docstrings of a function and of what is defined in it."""
    owners = (ast.FunctionDef, ast.ClassDef)
    texts = [node.body[0] for node in ast.walk(function) if isinstance(node, owners) and ast.get_docstring(node)]
    return {line for text in texts for line in range(text.lineno, text.end_lineno + 1)}


def lines_of_code(function: ast.FunctionDef, lines: list[str]) -> int:
    """Lines of a function that are no docstring, no comment and not blank."""
    numbers = set(range(function.lineno, function.end_lineno + 1)) - docstring_lines(function)
    return sum(not lines[number - 1].strip().startswith("#") and bool(lines[number - 1].strip()) for number in numbers)


def parameters(function: ast.FunctionDef) -> list[str]:
    """Names of the parameters that a caller gives."""
    of = function.args
    return [item.arg for item in (*of.posonlyargs, *of.args, *of.kwonlyargs) if item.arg not in ("self", "cls")]


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_names(path: Path) -> set[str]:
    """Private names of another module of the library that a module imports, or reaches through the module."""
    tree, found, imported = ast.parse(path.read_text(encoding="utf8")), set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "scdmc":
            found |= {f"{node.module}.{alias.name}" for alias in node.names if is_private(alias.name)}
            imported |= {alias.asname or alias.name for alias in node.names if f"{node.module}.{alias.name}" in NAMES}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and is_private(node.attr):
            found |= {f"{node.value.id}.{node.attr}"} if node.value.id in imported else set()
    return found


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


def test_modules_import_each_other_in_no_circle():
    imports = {dotted(path): imports_of(path) for path in MODULES}
    while free := {name for name, imported in imports.items() if not imported & set(imports)}:
        imports = {name: imported for name, imported in imports.items() if name not in free}
    left = [f"{name} imports {', '.join(sorted(imported & set(imports)))}" for name, imported in imports.items()]
    assert not left, "in a circle, or above one:\n" + "\n".join(left)


def test_no_folder_holds_too_many_modules():
    folders = {path.parent for path in MODULES}
    sizes = {folder: sum(path.parent == folder for path in MODULES) for folder in folders}
    large = [f"{folder.relative_to(ROOT)}: {size} modules" for folder, size in sizes.items() if size > MOST_MODULES]
    assert not large, "\n".join(large)


def test_no_module_is_too_long():
    lengths = {path: len(path.read_text(encoding="utf8").splitlines()) for path in (*MODULES, *SCRIPTS)}
    long = [f"{path.relative_to(ROOT)}: {length} lines" for path, length in lengths.items() if length > MOST_LINES]
    assert not long, "\n".join(long)


def test_no_function_is_too_long():
    long = []
    for path in (*MODULES, *SCRIPTS):
        lines = path.read_text(encoding="utf8").splitlines()
        for function in functions_of(path):
            length = lines_of_code(function, lines)
            if length > MOST_LINES_OF_CODE:
                long.append(f"{path.relative_to(ROOT)}:{function.lineno} {function.name}: {length} lines of code")
    assert not long, "\n".join(long)


def test_no_function_takes_too_many_parameters():
    wide = [
        f"{path.relative_to(ROOT)}:{function.lineno} {function.name}: {', '.join(parameters(function))}"
        for path in (*MODULES, *SCRIPTS)
        for function in functions_of(path)
        if len(parameters(function)) > MOST_PARAMETERS
    ]
    assert not wide, "\n".join(wide)


def test_only_the_wing_of_the_command_line_knows_argparse():
    knowing = [
        str(path.relative_to(ROOT))
        for path in MODULES
        if path.parent.name != "cli"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf8")))
        if (isinstance(node, ast.Import) and "argparse" in {alias.name for alias in node.names})
        or (isinstance(node, ast.ImportFrom) and node.module == "argparse")
    ]
    assert not knowing, "\n".join(knowing)


def test_no_private_name_crosses_modules():
    tests = sorted((ROOT / "tests").rglob("*.py"))
    crossing = [
        f"{path.relative_to(ROOT)} takes {name}" for path in (*MODULES, *tests) for name in sorted(private_names(path))
    ]
    assert not crossing, "\n".join(crossing)


def names_in(path: Path) -> set[str]:
    """What a module offers at its top: definitions, assignments and imports, those under an if included."""
    found, nodes = set(), list(ast.parse(path.read_text(encoding="utf8")).body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            found |= {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
        nodes += getattr(node, "body", []) if isinstance(node, (ast.If, ast.Try)) else []
        nodes += [*getattr(node, "orelse", []), *getattr(node, "handlers", [])] if isinstance(node, ast.If) else []
    return found


def test_every_name_that_is_imported_is_there():
    # Imports inside of functions, too, which fail when a user gets there.
    offered = {dotted(path): names_in(path) for path in MODULES}
    missing = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.module}.{alias.name}"
        for path in (*MODULES, *SCRIPTS, *sorted((ROOT / "tests").rglob("*.py")))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf8")))
        if isinstance(node, ast.ImportFrom) and node.module in offered
        for alias in node.names
        if alias.name not in offered[node.module] and f"{node.module}.{alias.name}" not in NAMES
    ]
    assert not missing, "\n".join(missing)
