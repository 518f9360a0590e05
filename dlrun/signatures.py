"""Reading the options of components: from source files without importing them, or from live factories.

Both readings give the same :class:`Entry`; a contract test holds them equal for every built-in component.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlrun import types as option_types
from dlrun.errors import UserError
from dlrun.types import convert, describe

Factory = Callable[..., Any]


class _Required:
    def __repr__(self) -> str:
        return "???"


REQUIRED: Any = _Required()
"""Default of an option that has none."""


@dataclass(frozen=True)
class Option:
    """One option of a component.

    Attributes:
        name: key in YAML.
        annotation: its type, as understood by :mod:`dlrun.types`.
        default: its default, or :data:`REQUIRED`.
        doc: its line in the ``Args:`` section of the docstring; may be empty.
    """

    name: str
    annotation: Any
    default: Any
    doc: str

    @property
    def wanted(self) -> str:
        """The type in words."""
        return describe(self.annotation)


@dataclass(frozen=True)
class Entry:
    """What is known of a component without building it.

    Attributes:
        name: key in YAML.
        module: dotted module that defines it.
        line: line of its definition in that module, from 1.
        doc: its whole docstring.
        options: its options in the order of the signature, without the runtime arguments.
        needs: the runtime arguments without a default, which it cannot be built without.
    """

    name: str
    module: str
    line: int
    doc: str
    options: tuple[Option, ...]
    needs: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return self.doc.strip().splitlines()[0] if self.doc.strip() else ""

    @property
    def source(self) -> str:
        """The paper or section after ``Source:`` in the docstring; empty if there is none."""
        return _section(self.doc, "Source")


def read_sources(location: str, runtime: tuple[str, ...]) -> Iterable[Entry]:
    """Read the registered components of a package or module from its source files; nothing of it is imported.

    Args:
        location: dotted name of the package or module.
        runtime: arguments that are not options.

    Raises:
        ModuleNotFoundError: if there is no such package.
    """
    spec = importlib.util.find_spec(location)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"no package {location}; the installation of dlrun is incomplete")
    if spec.submodule_search_locations is None:
        files = [(location, Path(spec.origin))]
    else:
        folder = Path(spec.origin).parent
        files = [(f"{location}.{path.stem}", path) for path in sorted(folder.glob("*.py"))]
    for module, path in files:
        source = path.read_text(encoding="utf-8")
        if ".register" in source:
            yield from _entries_of(ast.parse(source), module, runtime)


def read_factory(kind: str, factory: Factory, runtime: tuple[str, ...]) -> Entry:
    """Read a component that was imported.

    Args:
        kind: its kind, for messages.
        factory: function or class.
        runtime: arguments that are not options.

    Raises:
        UserError: if an option has a type that YAML cannot hold, or a default that is not of its type.
    """
    is_class = isinstance(factory, type)
    hints = typing.get_type_hints(factory.__init__ if is_class else factory, include_extras=True)
    # Not inspect.getdoc: it would take the docstring of a base class, such as torch's Module.
    doc = _docs(factory.__doc__, factory.__init__.__doc__ if is_class and "__init__" in vars(factory) else None)
    options, needs = [], []
    for key, parameter in inspect.signature(factory).parameters.items():
        default = REQUIRED if parameter.default is parameter.empty else parameter.default
        if key in runtime:
            needs += [key] if default is REQUIRED else []
            continue
        option = Option(key, hints.get(key, Any), default, _arg_doc(doc, key))
        _check_option(f"option {key!r} of the {kind} {factory.__name__!r} of module {factory.__module__}", option)
        options.append(option)
    line = inspect.getsourcelines(factory)[1]
    return Entry(factory.__name__, factory.__module__, line, doc, tuple(options), tuple(needs))


def _check_option(what: str, option: Option) -> None:
    """A default must pass the check that the same value gets when it is read again from a run's ``config.yaml``."""
    if not option_types.is_supported(option.annotation):
        raise UserError(
            f"{what} has a type that YAML cannot hold, {option.wanted}; use bool, int, float, str, Path, Duration, "
            "Literal[...], X | None, or list, tuple or dict of these with their contents, such as list[int]"
        )
    if option.default is not REQUIRED:
        try:
            convert(option.default, option.annotation)
        except ValueError as error:
            raise UserError(f"{what} has a default that is not of its type: {error}") from None


def _entries_of(tree: ast.Module, module: str, runtime: tuple[str, ...]) -> Iterable[Entry]:
    for node in tree.body:
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            continue
        if not any(isinstance(mark, ast.Attribute) and mark.attr == "register" for mark in node.decorator_list):
            continue
        function: ast.FunctionDef | None
        if isinstance(node, ast.FunctionDef):
            function, doc = node, _docs(ast.get_docstring(node), None)
        else:
            inits = [part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"]
            function = inits[0] if inits else None
            doc = _docs(ast.get_docstring(node), ast.get_docstring(function) if function else None)
        options = tuple(_options_of(function, tree, doc, runtime)) if function else ()
        needs = [name.arg for name, default in _arguments(function) if default is None] if function else []
        yield Entry(node.name, module, node.lineno, doc, options, tuple(name for name in needs if name in runtime))


def _arguments(function: ast.FunctionDef) -> list[tuple[ast.arg, ast.expr | None]]:
    """The arguments of a function, each with its default or None."""
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    pad: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults))
    defaults = [*pad, *arguments.defaults, *arguments.kw_defaults]
    return list(zip([*positional, *arguments.kwonlyargs], defaults, strict=True))


def _options_of(function: ast.FunctionDef, tree: ast.Module, doc: str, runtime: tuple[str, ...]) -> Iterable[Option]:
    names = _Names(tree)
    for argument, default in _arguments(function):
        if argument.arg in runtime or argument.arg == "self":
            continue
        annotation = Any if argument.annotation is None else names.evaluate(argument.annotation)
        value = REQUIRED if default is None else names.evaluate(default)
        yield Option(argument.arg, annotation, value, _arg_doc(doc, argument.arg))


class _Names(dict[str, Any]):
    """Names that annotations and defaults may use: builtins, option types, and constants of the same file."""

    def __init__(self, tree: ast.Module) -> None:
        super().__init__(vars(option_types))
        self.update(Literal=typing.Literal, Annotated=typing.Annotated, Any=Any)
        self._assigned = {
            target.id: node.value
            for node in tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for name in self._assigned:
            # As in Python, a name of the file goes before one of the same spelling that it could import.
            self.pop(name, None)

    def __missing__(self, key: str) -> Any:
        if key not in self._assigned:
            raise KeyError(key)
        self[key] = self.evaluate(self._assigned[key])
        return self[key]

    def evaluate(self, node: ast.expr) -> Any:
        # The expression comes from dlrun's own source files, never from a configuration.
        return eval(compile(ast.Expression(node), "<signature>", "eval"), {}, self)


def _docs(outer: str | None, inner: str | None) -> str:
    return "\n\n".join(inspect.cleandoc(doc) for doc in (outer, inner) if doc)


def _section(doc: str, title: str) -> str:
    lines = doc.splitlines()
    for i, line in enumerate(lines):
        if line.startswith(f"{title}:"):
            parts = [line.removeprefix(f"{title}:").strip()]
            for more in lines[i + 1 :]:
                if not more.startswith(" "):
                    break
                parts.append(more.strip())
            return " ".join(part for part in parts if part)
    return ""


def _arg_doc(doc: str, name: str) -> str:
    lines = doc.splitlines()
    for i, line in enumerate(lines):
        if line.startswith(f"    {name}:"):
            parts = [line.split(":", 1)[1].strip()]
            for more in lines[i + 1 :]:
                if not more.startswith("        "):
                    break
                parts.append(more.strip())
            return " ".join(parts)
    return ""
