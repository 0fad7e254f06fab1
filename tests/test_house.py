"""The shape of the package: imports run one way, files stay short, no call changes the state of a module."""

from __future__ import annotations

import ast
from pathlib import Path

import zhclip_openclip

PACKAGE = Path(zhclip_openclip.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
#: From the ground up. A room imports from its own floor and from those below it.
FLOORS = [
    {"families"},
    {"checkpoints"},
    {"towers"},
    {"features", "prompts"},
    {"datasets", "metrics", "training"},
    {"report", "export", "probes"},
    {"reproduction", "galleries", "folders"},  # folders: features, prompts and metrics put together, as a page
    {"integrations"},
    {"commands"},
]
#: Who may import `integrations` besides itself: it is for hosts to call, and for the verb that starts a host.
MAY_IMPORT_INTEGRATIONS = {"commands/eval.py", "commands/doctor.py"}


def rooms_of(module: str) -> str:
    """`zhclip_openclip.datasets.muge` -> `datasets`; "" for the modules beside the rooms."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and (PACKAGE / parts[1]).is_dir() else ""


def imports(path: Path) -> list[tuple[str, int]]:
    """Modules of ours that a file imports when it runs, wherever in it, with the line; not those for types alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and getattr(block.test, "id", "") == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    found = []
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("zhclip_openclip"):
            found += [(f"{node.module}.{name.name}", node.lineno) for name in node.names]
        elif isinstance(node, ast.Import):
            found += [(name.name, node.lineno) for name in node.names if name.name.startswith("zhclip_openclip")]
    return found


def test_imports_run_one_way():
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    wrong = []
    for path in FILES:
        here = path.relative_to(PACKAGE)
        room = here.parts[0] if len(here.parts) > 1 else ""
        if room not in floor:
            continue
        for module, line in imports(path):
            target = rooms_of(module)
            if target not in floor:
                continue
            if target == "integrations" and room != "integrations" and here.as_posix() in MAY_IMPORT_INTEGRATIONS:
                continue
            if floor[target] > floor[room] or (target == "integrations" and room != "integrations"):
                wrong.append(f"{here}, line {line}: {module}")
    assert not wrong, "\n".join(wrong)


def test_every_room_has_its_floor():
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    assert rooms <= set().union(*FLOORS), "a new room: say where it stands"


def test_no_file_is_longer_than_a_person_reads():
    long = {str(path.relative_to(PACKAGE)): n for path in FILES if (n := len(path.read_text().splitlines())) > 400}
    assert not long


def test_no_call_changes_a_module():
    """No `global`: what holds for a while is handed on, or stands in a context variable."""
    wrong = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Global):
                wrong.append(f"{path.relative_to(PACKAGE)}, line {node.lineno}: global {', '.join(node.names)}")
    assert not wrong, "\n".join(wrong)


def test_each_host_is_one_folder_with_its_table_on_the_first_page():
    hosts = {path.name for path in (PACKAGE / "integrations").iterdir() if (path / "__init__.py").exists()}
    assert {"open_clip", "clip_benchmark", "open_clip_train", "mteb"} <= hosts
    for host in hosts:
        page = (PACKAGE / "integrations" / host / "__init__.py").read_text(encoding="utf-8")
        assert "Patch(" in page and "def register" in page, host
        others = [p for p in (PACKAGE / "integrations" / host).glob("*.py") if p.name != "__init__.py"]
        assert not [p.name for p in others if "Patch(" in p.read_text(encoding="utf-8")], host
