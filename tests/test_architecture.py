"""The layers of docs/architecture.md: imports point down only, and never in a circle."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Longest prefix wins. Inside a layer, modules may import each other as long as there is no cycle.
LAYERS: dict[str, int] = {
    "dlrun": 0,
    "dlrun.addresses": 0,
    "dlrun.errors": 0,
    "dlrun.monitor": 0,
    "dlrun.registry": 0,
    "dlrun.signatures": 0,
    "dlrun.interrupts": 0,
    "dlrun.terminal_plot": 0,
    "dlrun.timeline": 0,
    "dlrun.types": 0,
    "dlrun.units": 0,
    "dlrun.yaml_text": 0,
    "dlrun.config.schema": 1,
    "dlrun.config.sweep_schema": 1,
    "dlrun.models": 1,
    "dlrun.data": 1,
    "dlrun.augment": 1,
    "dlrun.tasks": 1,
    "dlrun.optim": 1,
    "dlrun.losses": 1,
    "dlrun.meters": 1,
    "dlrun.modes": 1,
    "dlrun.scores": 1,
    "dlrun.charts": 1,
    "dlrun.contact_sheet": 1,
    "dlrun.export": 1,
    "dlrun.checkpoint": 1,
    "dlrun.reproducibility": 1,
    "dlrun.runfolder": 1,
    "dlrun.allocator": 1,
    "dlrun.logs": 1,
    "dlrun.receptive": 1,
    "dlrun.weights": 1,
    "dlrun.combine": 1,
    "dlrun.views": 1,
    "dlrun.transfer": 1,
    "dlrun.spread": 1,
    "dlrun.members": 1,
    "dlrun.sampling": 1,
    "dlrun.inspection": 1,
    "dlrun.cell_page": 1,
    "dlrun.gradients": 1,
    "dlrun.summary": 1,
    "dlrun.tracing": 1,
    "dlrun.summary_text": 1,
    "dlrun.sweep.scalars": 1,
    "dlrun.sweep.distributions": 1,
    "dlrun.sweep.space": 1,
    "dlrun.sweep.notation": 1,
    "dlrun.sweep.response": 1,
    "dlrun.sweep.verdict": 1,
    "dlrun.train": 2,
    "dlrun.config": 3,
    "dlrun.assembly": 3,
    "dlrun.report": 3,
    "dlrun.sweep": 4,
    "dlrun.commands": 4,
    "dlrun.cli": 5,
    "dlrun.__main__": 5,
    "dlrun.configs": 0,
    "dlrun.recipes": 0,
}
# Inside train/: state -> fit -> callbacks -> replay -> step -> loop.
TRAIN = [
    "state",
    "batch_norm",
    "average",
    "fit",
    "grown_file",
    "callbacks",
    "replay",
    "step",
    "probe",
    "evaluate",
    "signals",
    "nan_hunt",
    "loop",
]


def modules() -> dict[str, Path]:
    found = {}
    for folder, package in (
        ("dlrun", "dlrun"),
        ("models", "dlrun.models"),
        ("configs", "dlrun.configs"),
        ("recipes", "dlrun.recipes"),
    ):
        for path in sorted((ROOT / folder).rglob("*.py")):
            relative = path.relative_to(ROOT / folder).with_suffix("")
            if folder == "dlrun" and relative.parts[0] in ("models", "configs", "recipes"):
                continue
            parts = [part for part in relative.parts if part != "__init__"]
            found[".".join([package, *parts])] = path
    return found


MODULES = modules()


def imports(path: Path, *, at_import_time: bool) -> set[str]:
    """dlrun modules that a file imports; ``at_import_time`` leaves out those inside functions and for types only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if at_import_time:
        nodes = [
            node
            for statement in tree.body
            if not (isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test))
            and not isinstance(statement, (ast.FunctionDef, ast.ClassDef))
            for node in ast.walk(statement)
        ]
    else:
        nodes = list(ast.walk(tree))
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "dlrun"}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "dlrun":
            assert node.module is not None
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in MODULES else node.module)
    return found


def layer(module: str) -> int:
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        prefix = ".".join(parts[:length])
        if prefix in LAYERS and (length > 1 or module == "dlrun"):
            return LAYERS[prefix]
    raise AssertionError(f"{module} has no layer: add it to LAYERS and to docs/architecture.md")


def test_every_module_is_found() -> None:
    assert len(MODULES) > 50
    assert {"dlrun.cli", "dlrun.train.loop", "dlrun.models.resnet", "dlrun.train.callbacks.checkpoint"} <= set(MODULES)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_point_down(module: str) -> None:
    for target in imports(MODULES[module], at_import_time=False):
        assert layer(target) <= layer(module), f"{module} (L{layer(module)}) imports {target} (L{layer(target)})"


def test_train_is_built_bottom_up() -> None:
    for module, path in MODULES.items():
        if not module.startswith("dlrun.train."):
            continue
        own = TRAIN.index(module.split(".")[2])
        for target in imports(path, at_import_time=False):
            if target.startswith("dlrun.train."):
                other = TRAIN.index(target.split(".")[2])
                assert other <= own, f"{module} imports {target}"


def test_no_import_cycles() -> None:
    graph = {module: imports(path, at_import_time=True) & set(MODULES) for module, path in MODULES.items()}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module in done:
            return
        for target in graph[module] - {"dlrun"}:
            visit(target, (*path, module))
        done.add(module)

    for module in graph:
        visit(module, ())


def test_nothing_below_the_commands_imports_hydra_in_the_hot_path() -> None:
    for module, path in MODULES.items():
        if module.startswith(("dlrun.train", "dlrun.models", "dlrun.data", "dlrun.augment", "dlrun.tasks")):
            text = path.read_text(encoding="utf-8")
            assert "omegaconf" not in text
            assert "import hydra" not in text
