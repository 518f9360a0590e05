"""Merging the layers of a configuration and resolving its interpolations, value by value."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from typing import Any

from dlrun.config.sources import KeyPath, Provenance
from dlrun.errors import did_you_mean

_REFERENCE = re.compile(r"\$\{([A-Za-z_][\w.]*)\}")


def merge(provenance: Provenance) -> tuple[dict[str, Any], dict[KeyPath, str]]:
    """Merge the layers, later ones winning, and resolve ``${...}``.

    Returns:
        The plain tree; and what is wrong with each value that cannot be resolved (null in the tree), by its path.
    """
    from omegaconf import OmegaConf

    merged: dict[str, Any] = {}
    for layer in provenance.layers:
        merge_into(merged, copy.deepcopy(layer.tree))
    problems: dict[KeyPath, str] = {}
    _refuse_odd_values(merged, (), problems)
    tree = _resolve(OmegaConf.create(merged), (), [".".join(path) for path in _paths(merged, ())], problems)
    assert isinstance(tree, dict)
    return tree, {path: f"{provenance.where(path)}: {'.'.join(path)}: {message}" for path, message in problems.items()}


def merge_into(target: dict[str, Any], source: dict[str, Any]) -> None:
    """Write the values of ``source`` over those of ``target``; mappings are merged key by key.

    A list is replaced as a whole, but by a mapping whose keys are numbers of its elements: ``betas: {0: 0.9}``, or
    ``betas.0=0.9`` on the command line.
    """
    for key, value in source.items():
        key = str(key)
        known = target.get(key)
        if isinstance(value, dict) and isinstance(known, list) and _names_elements(value, len(known)):
            elements = {str(i): element for i, element in enumerate(known)}
            merge_into(elements, value)
            target[key] = list(elements.values())
        elif isinstance(value, dict):
            if not isinstance(target.get(key), dict):
                target[key] = {}
            merge_into(target[key], value)
        else:
            target[key] = value


def _names_elements(tree: dict[str, Any], count: int) -> bool:
    return bool(tree) and all(str(key).isdecimal() and int(key) < count for key in tree)


def _refuse_odd_values(node: Any, path: KeyPath, problems: dict[KeyPath, str]) -> None:
    """Replace values that OmegaConf refuses, each with its own message: it would stop at the first."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    for key, value in list(node.items() if isinstance(node, dict) else enumerate(node)):
        here = (*path, str(key))
        if isinstance(value, (dict, list)):
            _refuse_odd_values(value, here, problems)
        elif not isinstance(value, str) or "${" in value:
            try:
                OmegaConf.create({"value": value})
            except OmegaConfBaseException as error:
                if type(value).__name__.endswith("Sweep"):
                    problems[here] = (
                        "a distribution inside of braces is not understood on the command line; give it by itself, as "
                        f"{'.'.join(here)}='choice(a, b)'"
                    )
                elif isinstance(value, str):
                    problems[here] = f"the interpolation {value!r} is not complete: {_first_line(error)}"
                else:
                    problems[here] = f"a {type(value).__name__} is not a value that a configuration can hold"
                node[key] = None


def _resolve(config: Any, path: KeyPath, known: Sequence[str], problems: dict[KeyPath, str]) -> Any:
    """Resolve node by node, so that a message can name the key and the expression."""
    from omegaconf import DictConfig, ListConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if isinstance(config, ListConfig):
        keys: list[Any] = list(range(len(config)))
    elif isinstance(config, DictConfig):
        keys = list(config.keys())
    else:
        return config
    values: list[Any] = []
    for key in keys:
        here = (*path, str(key))
        if OmegaConf.is_missing(config, key):
            values.append("???")
            continue
        try:
            value = config[key]
        except (OmegaConfBaseException, RecursionError) as error:
            raw = OmegaConf.to_container(config, resolve=False)
            problems[here] = _unresolved(raw[key], error, known)  # type: ignore[index]
            values.append(None)
            continue
        values.append(_resolve(value, here, known, problems))
    return values if isinstance(config, ListConfig) else dict(zip(map(str, keys), values, strict=True))


def _unresolved(expression: str, error: Exception, known: Sequence[str]) -> str:
    if isinstance(error, RecursionError):
        return f"the interpolation {expression!r} leads back to itself"
    missing = [reference for reference in _REFERENCE.findall(expression) if reference not in known]
    if not missing:
        return f"the interpolation {expression!r} does not resolve: {_first_line(error)}"
    hint = did_you_mean(missing[0], known)
    if not hint.startswith("did you mean"):
        hint = "write the whole path of a key, such as ${optimizer.lr}"
    return f"the interpolation {expression!r} does not resolve: there is no {missing[0]}; {hint}"


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def _paths(node: Any, path: KeyPath) -> Iterator[KeyPath]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield (*path, key)
            yield from _paths(value, (*path, key))
