"""The file that ``config=`` names, with those that its ``defaults:`` list names."""

from __future__ import annotations

from pathlib import Path

from dlrun.config.groups import groups
from dlrun.config.sources import Layer, display_path, read_yaml
from dlrun.errors import ConfigError, did_you_mean

RECIPES = Path(__file__).resolve().parent.parent / "recipes"


def recipes() -> list[str]:
    """Names of the recipes that come with dlrun."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def read_chain(path: Path, chain: tuple[Path, ...] = ()) -> tuple[list[Layer], list[str]]:
    """A file with the files of its ``defaults:`` list, lowest first; and what is wrong with that list."""
    # A recipe of dlrun lies in the installation: relative paths in it mean the current folder.
    recipe = path.parent.samefile(RECIPES)
    label = f"recipes/{path.name}" if recipe else display_path(path)
    tree, lines = read_yaml(path, label)
    layer = Layer(label, tree, None if recipe else path.parent, lines, file=None if recipe else path)
    layers: list[Layer] = []
    problems: list[str] = []
    defaults = tree.pop("defaults", None)
    if not isinstance(defaults, (list, type(None))):
        problems.append(f"{layer.where(('defaults',))}: `defaults:` must be a list, as in Hydra, got {defaults!r}")
        defaults = None
    for i, item in enumerate(defaults or []):
        where = layer.where(("defaults", str(i)))
        if item == "_self_":
            layers.append(layer)
        elif item in ("config", "/config"):
            # The defaults of dlrun itself are always there.
            continue
        elif isinstance(item, str):
            other = find_file(item.lstrip("/"), path.parent, where)
            if other in (*chain, path):
                raise ConfigError([f"{where}: {item!r} leads back to itself"])
            above, wrong = read_chain(other, (*chain, path))
            layers += above
            problems += wrong
        elif isinstance(item, dict) and len(item) == 1:
            ((key, option),) = item.items()
            group = key.removeprefix("override ").removeprefix("optional ").strip().lstrip("/")
            if group not in groups():
                problems.append(f"{where}: unknown config group {group!r}; {did_you_mean(group, groups())}")
            elif option is not None:
                layer.choices[group] = str(option)
        else:
            problems.append(f"{where}: an entry of `defaults:` is a name or one `group: option`, got {item!r}")
    # As in Hydra, a file wins over those that it names, unless its list says otherwise with _self_.
    return (layers if any(known is layer for known in layers) else [*layers, layer]), problems


def find_file(config: str, folder: Path, where: str) -> Path:
    """The recipe of that name, or the YAML file of that path below ``folder``.

    Raises:
        ConfigError: if there is none.
    """
    if not config:
        raise ConfigError([f"{where} is empty; give the name of a recipe or the path of a YAML file"])
    path = (folder / config).expanduser()
    if path.is_dir() and (path / "config.yaml").is_file():
        return (path / "config.yaml").resolve()
    for candidate in (path, path.parent / f"{path.name}.yaml"):
        if candidate.is_file():
            return candidate.resolve()
    recipe = RECIPES / f"{config}.yaml"
    if recipe.is_file():
        return recipe
    if path.is_dir():
        raise ConfigError([f"{where}: {config!r} is a folder without a config.yaml; give a YAML file or a run folder"])
    if config.endswith((".yaml", ".yml")) or "/" in config:
        raise ConfigError([f"{where}: there is no file {config!r} (looked in {folder})"])
    raise ConfigError(
        [f"{where}: there is no recipe and no file {config!r} (looked in {folder}); {did_you_mean(config, recipes())}"]
    )
