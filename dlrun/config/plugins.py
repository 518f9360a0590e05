"""Importing the user's plug-in modules, which register components of their own."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from dlrun.errors import ConfigError, UserError

log = logging.getLogger("dlrun")

_FOLDERS: set[str] = set()
"""Folders of file plug-ins, which stay importable."""


class _PluginError(Exception):
    """A plug-in that is not there, or cannot be imported under its name."""


def import_plugins(plugins: Sequence[str], folder: Path, where: str) -> tuple[str, ...]:
    """Import plug-ins once each.

    Args:
        plugins: names of modules or packages, looked for in ``folder`` first and then among the installed ones; or
            paths of ``.py`` files, relative ones against ``folder``.
        folder: folder of the file that lists them; the current folder for those of the command line.
        where: that place, for messages.

    Returns:
        What to record in the run's configuration: absolute paths for files, names for installed modules.

    Raises:
        ConfigError: if a plug-in does not exist or fails while it is imported (with its file and line).
    """
    return tuple(_reporting(plugin, where, partial(_import, plugin, folder)) for plugin in plugins)


def import_saved_plugins(plugins: Sequence[str], where: str) -> tuple[str, ...]:
    """Import the plug-ins that a checkpoint or a run folder names, which may come from somebody else.

    A name means an installed module, never one in the folder of the checkpoint or in the current folder; a file is
    taken only from the absolute path that was recorded, and is logged before it runs.

    Args:
        plugins: what :func:`import_plugins` gave when the run was started.
        where: the checkpoint or file, for messages.

    Returns:
        The same names and paths.

    Raises:
        ConfigError: if a plug-in does not exist or fails while it is imported (with its file and line).
    """
    return tuple(_reporting(plugin, where, partial(_import_saved, plugin)) for plugin in plugins)


def _import(plugin: str, folder: Path) -> str:
    if plugin.endswith(".py"):
        path = folder / Path(plugin).expanduser()
    else:
        base = folder / plugin.replace(".", "/")
        path = base / "__init__.py" if (base / "__init__.py").is_file() else base.with_name(f"{base.name}.py")
    if path.is_file():
        _load_file(path.resolve())
        return str(path.resolve())
    if plugin.endswith(".py"):
        raise _PluginError(f"there is no file {path}")
    try:
        importlib.import_module(plugin)
    except ModuleNotFoundError as error:
        if error.name != plugin.split(".")[0]:
            raise
        raise _PluginError(f"there is no module {plugin!r} in {folder} or among the installed packages") from None
    return plugin


def _import_saved(plugin: str) -> str:
    if plugin.endswith(".py"):
        path = Path(plugin)
        if not path.is_absolute():
            raise _PluginError(f"{plugin!r} is not an absolute path; say where the file is with plugins=[...]")
        if not path.is_file():
            raise _PluginError(f"there is no file {path}; say where it is now with plugins=[...]")
        _load_file(path.resolve(), saved=True)
        return plugin
    before = list(sys.path)
    sys.path[:] = [entry for entry in before if _is_installed(entry)]
    try:
        importlib.import_module(plugin)
    except ModuleNotFoundError as error:
        if error.name != plugin.split(".")[0]:
            raise
        raise _PluginError(
            f"there is no installed module {plugin!r}; if it is a file of yours, give it with plugins=[PATH]"
        ) from None
    finally:
        sys.path[:] = [*before, *(entry for entry in sys.path if entry not in before)]
    return plugin


def _is_installed(entry: str) -> bool:
    """Whether an entry of ``sys.path`` is neither the current folder nor one that a file plug-in brought."""
    return entry != "" and entry not in _FOLDERS and Path(entry).resolve() != Path.cwd()


def _reporting(plugin: str, where: str, load: Callable[[], str]) -> str:
    try:
        return load()
    except _PluginError as error:
        raise ConfigError([f"{where}: plugins: {error}"]) from error
    except UserError as error:
        raise ConfigError([f"{where}: plugins: {plugin!r}: {error}"]) from error
    except (Exception, SystemExit) as error:
        raise _failed(plugin, where, error) from error


def _load_file(path: Path, *, saved: bool = False) -> None:
    package = path.name == "__init__.py"
    name, root = (path.parent.name, path.parent.parent) if package else (path.stem, path.parent)
    known = sys.modules.get(name)
    if known is not None:
        if getattr(known, "__file__", None) == str(path):
            return
        raise _PluginError(f"{path} has the name of another module, {name}, that is already imported; rename it")
    if saved:
        log.info("plug-in %s", path)
    inside = [str(path.parent)] if package else None
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=inside)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Under its own name and with its folder importable, also later, as worker processes and sibling modules expect. At
    # the end, where it hides nothing.
    sys.modules[name] = module
    if str(root) not in sys.path:
        sys.path.append(str(root))
        _FOLDERS.add(str(root))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def _failed(plugin: str, where: str, error: BaseException) -> ConfigError:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place, text = f"{frame.filename}:{frame.lineno}", str(error)
    if isinstance(error, SyntaxError):
        place, text = f"{error.filename}:{error.lineno}", error.msg
    kind = type(error).__name__
    return ConfigError([f"{where}: plugins: {plugin!r} failed while it was imported: {kind}: {text} ({place})"])
