"""``dlrun list`` and ``dlrun show``: what there is to choose. Neither imports torch."""

from __future__ import annotations

import textwrap
from pathlib import Path

from dlrun.commands.request import Request
from dlrun.config.files import RECIPES, recipes
from dlrun.config.groups import CONFIGS, options
from dlrun.config.load import load_config
from dlrun.errors import EXIT_DONE, UserError, did_you_mean
from dlrun.registry import REGISTRIES, Registry
from dlrun.signatures import REQUIRED

_PLURALS = {
    "model": "models",
    "data": "data",
    "augment": "augmentations",
    "optimizer": "optimizers",
    "schedule": "schedules",
    "loss": "losses",
    "task": "tasks",
    "averaging": "averages",
    "callbacks": "callbacks",
    "recipe": "recipes",
    "debug": "debug",
}


def list_components(request: Request) -> int:
    """Print the names of one kind, or of all kinds, each with its first line.

    Raises:
        UserError: if there is no such kind.
    """
    _load_plugins(request)
    kinds = [_kind(request.words[0])] if request.words else list(_PLURALS)
    for i, kind in enumerate(kinds):
        if len(kinds) > 1:
            print(f"{'' if i == 0 else chr(10)}{_PLURALS[kind]} ({'dlrun show ' + kind + ' NAME'})")
        rows = _rows(kind)
        width = max((len(name) for name, _ in rows), default=0)
        for name, summary in rows:
            print(f"  {name:<{width}}  {summary}".rstrip())
    return EXIT_DONE


def show_component(request: Request) -> int:
    """Print a component's options, or a recipe's text; or draw what an experiment's augmentation does.

    Raises:
        UserError: if kind or name are missing or unknown.
    """
    if len(request.words) == 1 and _kind(request.words[0]) == "augment":
        from dlrun.commands.contact_sheet import show_augment

        return show_augment(request)
    curve = len(request.words) == 2 and _kind(request.words[0]) == "schedule"
    if not curve:
        _load_plugins(request)
    if len(request.words) != 2:
        raise UserError(f"dlrun show needs a kind and a name, such as `dlrun show optimizer adamw`; kinds: {_kinds()}")
    kind, name = _kind(request.words[0]), request.words[1]
    if kind in ("recipe", "debug"):
        folder = RECIPES if kind == "recipe" else CONFIGS / "debug"
        known = [path.stem for path in folder.glob("*.yaml")]
        if name not in known:
            raise UserError(f"there is no {kind} {name!r}; {did_you_mean(name, known)}")
        print((folder / f"{name}.yaml").read_text(encoding="utf-8"), end="")
        return EXIT_DONE
    if curve:
        _show_schedule(name, request)
    else:
        _show_entry(REGISTRIES[kind], name)
    return EXIT_DONE


def _show_schedule(name: str, request: Request) -> None:
    """Its options, and the rate over a training: that of config= and the overrides, or else of the defaults."""
    from dlrun.commands.show_schedule import schedule_config, show_curve

    foreign = [key for key in request.reserved if key not in ("config", "steps")]
    if foreign:
        raise UserError(
            f"{f'{foreign[0]}={request.reserved[foreign[0]]}'!r} means nothing here: it is for show augment"
        )
    config = schedule_config(name, request)
    steps = request.whole("steps")
    curve = show_curve(config, steps)
    _show_entry(REGISTRIES["schedule"], name)
    print()
    print("\n".join(curve))


def _show_entry(registry: Registry[object], name: str) -> None:
    entry = registry.entry(name)
    print(f"{registry.kind} {name}: {entry.summary}\n")
    if entry.options:
        rows = [
            (o.name, "required" if o.default is REQUIRED else _text(o.default), o.wanted, o.doc) for o in entry.options
        ]
        widths = [max(len(row[i]) for row in rows) for i in range(2)]
        for option, default, wanted, doc in rows:
            print(f"  {option:<{widths[0]}}  {default:<{widths[1]}}  {wanted}")
            indent = " " * (widths[0] + widths[1] + 6)
            if doc:
                print(textwrap.fill(doc, 110, initial_indent=indent, subsequent_indent=indent))
    else:
        print("  (no options)")
    if entry.source:
        print(f"\nsource: {entry.source}")
    file = CONFIGS / registry.kind / f"{name}.yaml"
    if file.is_file():
        print(f"\nconfigs/{registry.kind}/{name}.yaml:\n")
        print(textwrap.indent(file.read_text(encoding="utf-8").rstrip(), "  "))
    print(f"\ndefined in {entry.module} (line {entry.line})")


def _text(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(list(value) if isinstance(value, tuple) else value)


def _rows(kind: str) -> list[tuple[str, str]]:
    if kind == "recipe":
        return [(name, _first_comment(RECIPES / f"{name}.yaml")) for name in recipes()]
    if kind == "debug":
        return [(name, _first_comment(CONFIGS / "debug" / f"{name}.yaml")) for name in options("debug")]
    registry = REGISTRIES[kind]
    return [(name, registry.entry(name).summary) for name in registry.names()]


def _first_comment(path: Path) -> str:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#") and "@package" not in line:
            return line.lstrip("# ").strip()
    return ""


def _kind(word: str) -> str:
    for kind, plural in _PLURALS.items():
        if word in (kind, plural, f"{kind}s"):
            return kind
    raise UserError(f"there is no kind {word!r}; {did_you_mean(word, _PLURALS.values())}")


def _kinds() -> str:
    return ", ".join(_PLURALS)


def _load_plugins(request: Request) -> None:
    own = [f"{key}={value}" for key, value in request.reserved.items() if key != "config"]
    others = [*own, *(word for word in request.overrides if not word.startswith("plugins="))]
    if others:
        raise UserError(f"{others[0]!r} means nothing here: list and show take config= and plugins= only")
    if request.reserved or request.overrides:
        # The whole configuration is checked: a plug-in with a misspelt name must not just be missing from the list.
        load_config(request.reserved.get("config"), request.overrides)
