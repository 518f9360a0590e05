"""What holds for every registered component, and what a registry refuses. A new component is tested by being there."""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from helpers import forgetting_plugins

from dlrun import registry as module
from dlrun.config.groups import CONFIGS, component_of, options
from dlrun.config.schema import component_groups
from dlrun.config.sources import read_yaml
from dlrun.errors import UserError
from dlrun.registry import REGISTRIES, Registry
from dlrun.signatures import REQUIRED, Entry, read_factory
from dlrun.types import Duration, Path, PositiveInt, convert, is_supported

ENTRIES = [(kind, name) for kind, registry in REGISTRIES.items() for name in registry.names()]
every_entry = pytest.mark.parametrize(("kind", "name"), ENTRIES)


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    with forgetting_plugins():
        yield


def plain(value: Any) -> Any:
    """A default as YAML writes it."""
    if value is REQUIRED:
        return "???"
    if isinstance(value, (Duration, Path)):
        return str(value)
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def entry(kind: str, name: str) -> Entry:
    return REGISTRIES[kind].entry(name)


def test_every_registry_has_entries() -> None:
    assert {kind for kind, _ in ENTRIES} == set(REGISTRIES)
    assert {("model", "resnet"), ("optimizer", "sgd"), ("data", "digits"), ("callbacks", "checkpoint")} <= set(ENTRIES)


@every_entry
def test_reading_the_source_equals_reading_the_live_factory(kind: str, name: str) -> None:
    registry = REGISTRIES[kind]
    read, live = registry.entry(name), read_factory(kind, registry.get(name), registry.runtime)
    assert (read.name, read.module, read.doc, read.needs) == (live.name, live.module, live.doc, live.needs)
    assert [vars(option) for option in read.options] == [vars(option) for option in live.options]


@every_entry
def test_the_line_is_that_of_the_definition(kind: str, name: str) -> None:
    registry = REGISTRIES[kind]
    source = inspect.getsourcefile(registry.get(name))
    assert source is not None
    line = Path(source).read_text(encoding="utf-8").splitlines()[registry.entry(name).line - 1]
    assert line.startswith((f"def {name}(", f"class {name}(", f"class {name}:"))


@every_entry
def test_everything_is_documented(kind: str, name: str) -> None:
    known = entry(kind, name)
    assert known.summary.endswith(".")
    assert len(known.summary) <= 120
    for option in known.options:
        assert option.doc, f"{kind} {name}: option {option.name} has no line under Args:"


@every_entry
def test_options_have_types_and_defaults_of_their_type(kind: str, name: str) -> None:
    for option in entry(kind, name).options:
        assert option.annotation is not Any, option.name
        assert is_supported(option.annotation), option.name
        if option.default is not REQUIRED:
            # A saved configuration holds the plain form, which must read back as the default.
            assert convert(plain(option.default), option.annotation) == option.default


@every_entry
def test_runtime_arguments_are_refused_in_yaml(kind: str, name: str) -> None:
    registry = REGISTRIES[kind]
    assert not {option.name for option in registry.entry(name).options} & set(registry.runtime)
    for argument in registry.runtime:
        _, problems = registry.check(name, {argument: 1})
        assert (argument, f"is set by dlrun itself for every {kind}; remove it") in problems


@every_entry
def test_unknown_options_are_refused(kind: str, name: str) -> None:
    _, problems = REGISTRIES[kind].check(name, {"no_such_option": 1})
    assert problems[0][0] == "no_such_option"
    assert f"{kind} {name!r} has no option 'no_such_option'" in problems[0][1]


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k, n in ENTRIES if k not in ("augment", "callbacks")])
def test_the_group_file_lists_every_option_with_its_default(kind: str, name: str) -> None:
    path = CONFIGS / kind / f"{name}.yaml"
    assert path.is_file(), f"configs/{kind}/{name}.yaml is missing"
    tree, _ = read_yaml(path, path.name)
    known = entry(kind, name)
    assert tree["name"] == name
    everywhere, _ = read_yaml(CONFIGS / "config.yaml", "config.yaml")
    common = set(component_groups()[kind]) - set(everywhere.get(kind, {}))
    assert set(tree) == {"name", *common, *(option.name for option in known.options)}
    for option in known.options:
        assert tree[option.name] == plain(option.default), option.name
        assert type(tree[option.name]) is type(plain(option.default)), option.name


def test_the_callbacks_file_lists_every_callback() -> None:
    text = (CONFIGS / "callbacks" / "default.yaml").read_text(encoding="utf-8")
    tree, _ = read_yaml(CONFIGS / "callbacks" / "default.yaml", "default.yaml")
    assert set(tree) == set(REGISTRIES["callbacks"].names())
    for name, given in tree.items():
        for option in entry("callbacks", name).options:
            if given is None:
                # A callback that is off is described in a comment, with all its options.
                assert f"{option.name}:" in text, f"{name}.{option.name}"
            else:
                assert given[option.name] == plain(option.default), f"{name}.{option.name}"


@pytest.mark.parametrize("kind", sorted(component_groups()))
def test_every_group_file_is_a_component(kind: str) -> None:
    for option in options(kind):
        assert component_of(kind, option, ()) in REGISTRIES[kind]


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_option_in_configs_has_a_comment(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert any(line.startswith("# ") and "@package" not in line for line in lines) or path.stem == "default"
    if path.parent.name == "debug":
        return
    tree = yaml.compose("\n".join(lines))
    assert isinstance(tree, yaml.MappingNode)
    for key, _ in tree.value:
        if key.value in ("name", "defaults", "run", "augment", "progress"):
            continue
        line = key.start_mark.line
        near = lines[line - 1 : line + 2] if line else lines[:2]
        assert any("#" in text for text in near), f"{path}: {key.value}"


def made(name: str, source: str, registry: Registry[Any]) -> None:
    """Run a module that registers something."""
    code = compile(f"from typing import *\nfrom dlrun.types import *\n{source}", name, "exec")
    exec(code, {**vars(types.ModuleType(name)), "R": registry})


def own_registry(runtime: tuple[str, ...] = ()) -> Registry[Any]:
    registry: Registry[Any] = Registry("thing", "dlrun.losses", runtime=runtime)
    registry._index = {}
    return registry


def fruit(*, apples: int, pears: PositiveInt = 2, kind: str = "ripe") -> Any:
    """A basket.

    Args:
        apples: how many apples.
        pears: how many pears,
            at least one.

    Source: Eve
    """
    return apples, pears, kind


def test_registering_reads_the_signature() -> None:
    registry = own_registry()
    assert registry.register(fruit) is fruit
    known = registry.entry("fruit")
    assert (known.summary, known.source, known.module) == ("A basket.", "Eve", __name__)
    assert [(o.name, o.default, o.wanted, o.doc) for o in known.options] == [
        ("apples", REQUIRED, "a whole number", "how many apples."),
        ("pears", 2, "a whole number >= 1", "how many pears, at least one."),
        ("kind", "ripe", "a text", ""),
    ]
    assert repr(REQUIRED) == "???"
    assert registry.names() == ["fruit"]
    assert "fruit" in registry
    assert registry.get("fruit") is fruit


def test_check_fills_in_defaults_in_the_order_of_the_signature() -> None:
    registry = own_registry()
    registry.register(fruit)
    values, problems = registry.check("fruit", {"kind": "green", "apples": 1})
    assert problems == []
    assert list(values.items()) == [("apples", 1), ("pears", 2), ("kind", "green")]
    assert registry.build("fruit", values) == (1, 2, "green")


def test_check_lists_all_problems_at_once() -> None:
    registry = own_registry(runtime=("weather",))
    registry.register(fruit)
    _, problems = registry.check("fruit", {"pears": 0, "knid": "x", "weather": 1, "kind": 3})
    assert problems == [
        ("pears", "must be a whole number >= 1, got 0"),
        ("knid", "thing 'fruit' has no option 'knid'; did you mean kind?"),
        ("weather", "is set by dlrun itself for every thing; remove it"),
        ("kind", "must be a text, got 3"),
        ("apples", "missing required value: a whole number"),
    ]


def test_an_option_of_a_component_without_options() -> None:
    registry = own_registry()

    @registry.register
    def nothing() -> None:
        """Nothing."""

    assert registry.check("nothing", {"x": 1})[1] == [("x", "thing 'nothing' has no option 'x'; it has no options")]


def test_a_second_component_of_a_name_is_refused_naming_both_modules() -> None:
    registry = own_registry()
    registry.register(fruit)

    def other() -> None:
        """Another."""

    other.__name__, other.__module__ = "fruit", "orchard"
    with pytest.raises(UserError, match=f"'fruit' of module orchard is already registered by module {__name__}"):
        registry.register(other)
    with pytest.raises(UserError, match="already registered"):
        registry.register(fruit)


def test_a_built_in_name_is_refused_before_its_module_is_imported() -> None:
    registry: Registry[Any] = Registry("model", "dlrun.models")

    def resnet() -> None:
        """Mine."""

    with pytest.raises(UserError, match=r"'resnet' of module .*test_registry is already registered by module dlrun"):
        registry.register(resnet)


@pytest.mark.parametrize("arguments", ["**kwargs", "*args", "a: int = 1, **kwargs"])
def test_open_signatures_are_refused(arguments: str) -> None:
    with pytest.raises(UserError, match="takes \\*args or \\*\\*kwargs: name its options one by one"):
        made("open", f"@R.register\ndef thing({arguments}): ...", own_registry())


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("a: object = 1", "option 'a' of the thing 'it' of module .* has a type that YAML cannot hold, object"),
        ("a: list = ()", "has a type that YAML cannot hold, list"),
        ("a: int = None", "has a default that is not of its type: must be a whole number, got None"),
        ("a: PositiveInt = 0", "has a default that is not of its type: must be a whole number >= 1, got 0"),
    ],
)
def test_options_that_a_saved_configuration_could_not_hold_are_refused(argument: str, message: str) -> None:
    registry = own_registry()
    with pytest.raises(UserError, match=message):
        made("odd", f"@R.register\ndef it({argument}): ...", registry)
    assert "it" not in registry


def test_classes_register_with_their_init_or_without_one() -> None:
    registry = own_registry()

    class base:
        """A base with a docstring of its own."""

    @registry.register
    class simple(base):
        pass

    @registry.register
    class usual(base):
        """Usual."""

        def __init__(self, *, size: int = 3) -> None:
            """Make one.

            Args:
                size: how large.
            """
            self.size = size

    assert registry.entry("simple").summary == ""
    assert registry.entry("simple").options == ()
    assert [(o.name, o.default, o.doc) for o in registry.entry("usual").options] == [("size", 3, "how large.")]
    assert registry.build("usual", {"size": 5}).size == 5
    assert isinstance(registry.build("simple", {}), simple)


def test_unknown_names_get_the_nearest() -> None:
    for call in (REGISTRIES["model"].entry, REGISTRIES["model"].get):
        with pytest.raises(UserError, match="unknown model 'resnt'; did you mean resnet"):
            call("resnt")
    with pytest.raises(UserError, match="unknown optimizer 'qqqq'; known: adadelta, adagrad, adam, "):
        REGISTRIES["optimizer"].entry("qqqq")


def test_build_passes_only_the_runtime_arguments_that_are_asked_for() -> None:
    registry = own_registry(runtime=("sun", "rain"))

    @registry.register
    def plant(sun: int, *, height: int = 2) -> tuple[int, int]:
        """A plant."""
        return sun, height

    assert [option.name for option in registry.entry("plant").options] == ["height"]
    assert registry.build("plant", {"height": 5}, sun=1, rain=2) == (1, 5)


def test_build_turns_a_refused_value_into_a_user_error() -> None:
    registry = own_registry()

    @registry.register
    def picky(*, a: int = 1) -> None:
        """Picky."""
        raise ValueError(f"a={a} is not to my taste; try a=2")

    with pytest.raises(UserError, match="thing 'picky': a=1 is not to my taste; try a=2"):
        registry.build("picky", {"a": 1})


def test_a_missing_package_is_a_broken_installation() -> None:
    with pytest.raises(ModuleNotFoundError, match="the installation of dlrun is incomplete"):
        Registry("thing", "dlrun.no_such_package").names()


def test_kinds_are_the_names_of_the_config_groups() -> None:
    assert set(module.REGISTRIES) <= {path.name for path in CONFIGS.iterdir() if path.is_dir()}
