"""Config groups: the YAML files of ``configs/``, and those that users put beside their own file."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from dlrun.config.schema import SECTIONS, component_groups
from dlrun.config.sources import Layer, display_path, read_yaml
from dlrun.errors import ConfigError
from dlrun.registry import REGISTRIES

_ROOT = Path(__file__).resolve().parent.parent
CONFIGS = _ROOT / "configs"
DEBUG = "debug"


def groups() -> list[str]:
    """Names of the config groups."""
    return sorted(path.name for path in CONFIGS.iterdir() if path.is_dir() and not path.name.startswith("_"))


def options(group: str, folders: Sequence[Path] = ()) -> list[str]:
    """Names of the options of a config group, with those of the user's ``folders``."""
    return sorted({path.stem for root in (CONFIGS, *folders) for path in (root / group).glob("*.yaml")})


def default_options() -> dict[str, str]:
    """The option of each group that is taken when none is chosen."""
    tree, _ = read_yaml(CONFIGS / "config.yaml", "configs/config.yaml")
    return {group: option for item in tree["defaults"] if isinstance(item, dict) for group, option in item.items()}


def option_file(group: str, option: str, folders: Sequence[Path]) -> Path | None:
    """The file of a group's option, or None; one of dlrun goes before those of the user's ``folders``, as in Hydra."""
    paths = (root / group / f"{option}.yaml" for root in (CONFIGS, *folders))
    return next((path for path in paths if path.is_file()), None)


def shadowed(group: str, option: str, folders: Sequence[Path]) -> Path | None:
    """The user's file that would never be read because an option of dlrun has its name; None if there is none."""
    built_in = CONFIGS / group / f"{option}.yaml"
    if not built_in.is_file():
        return None
    own = (folder / group / f"{option}.yaml" for folder in folders)
    return next((path for path in own if path.is_file() and not path.samefile(built_in)), None)


def component_of(group: str, option: str, folders: Sequence[Path]) -> str:
    """The component that an option configures: of its own name, or ``name:`` in its file (``model/tiny.yaml``)."""
    path = option_file(group, option, folders)
    if path is None:
        return option
    return str(read_yaml(path, display_path(path))[0].get("name", option))


def split_variant(group: str, name: str, folders: Sequence[Path] = ()) -> tuple[str, str] | None:
    """Take ``torchvision/resnet50`` apart: a component that wraps a library, and its option ``architecture``.

    Returns:
        The component and the architecture; None if the name is not of that form, or is the name of an option's file.
    """
    component, slash, architecture = name.partition("/")
    if not slash or group not in component_groups() or option_file(group, name, folders) is not None:
        return None
    registry = REGISTRIES[group]
    if component not in registry or all(known.name != "architecture" for known in registry.entry(component).options):
        return None
    return component, architecture


def expand_variants(layer: Layer, folders: Sequence[Path] = ()) -> None:
    """Write ``model: torchvision/resnet50`` out as the component and its architecture, wherever a layer says it."""
    for group in component_groups():
        section = layer.tree.get(group)
        name = layer.choices.get(group, section.get("name") if isinstance(section, dict) else section)
        found = split_variant(group, name, folders) if isinstance(name, str) else None
        if found is not None:
            rest = section if isinstance(section, dict) else {}
            layer.tree[group] = {**rest, "name": found[0], "architecture": found[1]}
            if (group, "name") in layer.lines:
                layer.lines[(group, "architecture")] = layer.lines[(group, "name")]
            layer.choices.pop(group, None)


def option_layer(group: str, option: str, folders: Sequence[Path]) -> Layer:
    """What the file of a group's option says."""
    path = option_file(group, option, folders)
    assert path is not None, (group, option)
    inside = path.is_relative_to(CONFIGS)
    label = f"configs/{path.relative_to(CONFIGS)}" if inside else display_path(path)
    tree, lines = read_yaml(path, label)
    if not _is_global(path, label):
        tree = {group: tree}
        lines = {(group, *key): line for key, line in lines.items()}
    return Layer(label, tree, None if inside else path.parent, lines)


def _is_global(path: Path, label: str) -> bool:
    """Whether the file's header says ``# @package _global_``.

    Raises:
        ConfigError: if that line is no header for Hydra, because another comment stands above it.
    """
    header = True
    for i, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        text = "".join(line.split())
        if text and not text.startswith("#"):
            break
        if text == "#@package_global_":
            if not header:
                raise ConfigError(
                    [f"{label}:{i}: `# @package _global_` has no effect below another comment; move it up"]
                )
            return True
        header = header and (not text or text.startswith("#@"))
    return False


def compose_groups(choices: Mapping[str, str], folders: Sequence[Path]) -> list[Layer]:
    """What Hydra composes from ``configs/`` and the chosen options, one layer per file.

    Args:
        choices: group -> option, for those that are not the default.
        folders: the user's folders, whose groups are looked into after those of dlrun, in this order.

    Raises:
        ConfigError: if Hydra refuses a file.
    """
    defaults = default_options()
    root, root_lines = read_yaml(CONFIGS / "config.yaml", "configs/config.yaml")
    # A component that only a plug-in knows has no file: its options come from its signature.
    chosen = {g: o for g, o in {**defaults, **choices}.items() if option_file(g, o, folders) is not None}
    # `~group` takes a group out of Hydra's defaults.
    words = [f"{group}={_quote(chosen[group])}" if group in chosen else f"~{group}" for group in defaults]
    own = [folder for folder in folders if any((folder / group).is_dir() for group in groups())]
    if own:
        words.append("hydra.searchpath=[" + ",".join(_quote(f"file://{folder}") for folder in own) + "]")
    # What lies in the user's folders may change while a process lives, what lies in configs/ does not.
    tree = _composed_by_hydra(tuple(words)) if own else copy.deepcopy(_composed_of_our_own(tuple(words)))
    layers = [Layer("configs/config.yaml", tree, None, root_lines)]
    for group, option in defaults.items():
        if choices.get(group, option) not in options(group):
            layers.append(_common_options(group, option, component_of(group, choices[group], folders)))
    for group, option in chosen.items():
        file = option_layer(group, option, folders)
        owned = {key: tree.pop(key) for key in list(tree) if key in file.tree}
        if isinstance(root.get(group), dict):
            # What config.yaml itself says of the section, for all options of the group.
            shared = [key for key in root[group] if key not in file.tree[group]]
            tree[group] = {key: owned[group].pop(key) for key in shared}
        layers.append(Layer(file.label, owned, file.base, file.lines))
    return layers


@lru_cache(maxsize=256)
def _composed_of_our_own(overrides: tuple[str, ...]) -> dict[str, Any]:
    return _composed_by_hydra(overrides)


def _composed_by_hydra(overrides: tuple[str, ...]) -> dict[str, Any]:
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            composed = compose("config", list(overrides))
    except HydraException as error:
        raise ConfigError([f"the config groups do not compose: {error}"]) from error
    values = OmegaConf.to_container(composed, resolve=False)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _common_options(group: str, default: str, component: str) -> Layer:
    """The options common to a group: a user's own option may leave them out, and a plug-in has no file at all."""
    layer = option_layer(group, component if component in options(group) else default, ())
    section = layer.tree[group]
    if group in SECTIONS:
        common = component_groups().get(group, tuple(section))
        layer.tree = {group: {key: value for key, value in section.items() if key in common}}
    else:
        layer.tree = {}
    return layer


def _quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
