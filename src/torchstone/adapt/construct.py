"""Call a stranger's constructor with what config.json says: by exact name, else by a documented alias.

Nothing is invented: a required argument that the configuration does not hold is an error that names it.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, get_type_hints

from torchstone._errors import ConfigError, ModelError
from torchstone.adapt.config_file import ModelFile, aliases

_CONFIG_ARGUMENTS = ("config", "cfg", "conf", "configuration", "args", "hparams")


class ConfigView(Mapping[str, Any]):
    """A configuration that answers to `config.d_model` as well as to `config["d_model"]`."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.__dict__.update(values)

    def __getitem__(self, key: str) -> Any:
        return self.__dict__[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.__dict__)

    def __len__(self) -> int:
        return len(self.__dict__)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"config.json says nothing about {name!r}")

    def __repr__(self) -> str:
        return f"config({', '.join(f'{key}={value!r}' for key, value in self.__dict__.items())})"


@dataclass
class Call:
    """The arguments for one factory, what was taken from where, and what the configuration held besides."""

    arguments: dict[str, Any]
    used: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)


def arguments_for(factory: Callable[..., Any], config: ModelFile, module: ModuleType | None = None) -> Call:
    """Arguments of `factory` (class or function) from `config`; `module` is where it was defined."""
    name = getattr(factory, "__name__", type(factory).__name__)
    parameters = _parameters(factory)
    if parameters is None:
        return Call({})
    alone = _lone_config(parameters, config)
    if alone is not None:
        return _config_call(factory, alone, config, module)
    call = Call({})
    missing: list[inspect.Parameter] = []
    for parameter in parameters:
        if parameter.kind is parameter.VAR_POSITIONAL:
            continue
        if parameter.kind is parameter.VAR_KEYWORD:
            rest = {key: value for key, value in config.values.items() if key not in call.used}
            call.arguments.update(rest)
            call.used.update(rest)
            continue
        key = _key_for(parameter.name, config, call)
        if key is not None:
            call.arguments[parameter.name] = config.values[key]
            call.used.add(key)
        elif parameter.default is parameter.empty:
            missing.append(parameter)
    if missing:
        raise _missing(factory, name, missing, config)
    return call


def build(factory: Callable[..., Any], call: Call) -> Any:
    """Call `factory`, also where it takes some arguments by position only."""
    arguments = dict(call.arguments)
    positional = [
        arguments.pop(parameter.name)
        for parameter in _parameters(factory) or []
        if parameter.kind is parameter.POSITIONAL_ONLY and parameter.name in arguments
    ]
    return factory(*positional, **arguments)


def refuse_unused(overrides: Mapping[str, Any], call: Call, config: ModelFile, name: str) -> None:
    """A size that the user set and that the constructor does not take is an error, not a shrug."""
    for key in overrides:
        if key not in call.used and not any(word in call.used for word in aliases(key)):
            raise ConfigError(
                f"model.{key} has no effect on {name}",
                why=f"its constructor takes {', '.join(call.arguments) or 'no arguments'}",
                next=f"leave model.{key} out, or give the class an argument {key}",
            )


def _parameters(factory: Callable[..., Any]) -> list[inspect.Parameter] | None:
    try:
        return list(inspect.signature(factory).parameters.values())
    except (TypeError, ValueError):  # a factory written in C
        return None


def _key_for(name: str, config: ModelFile, call: Call) -> str | None:
    if name in config.values:
        return name
    said = {word: config.values[word] for word in aliases(name) if word in config.values}
    if not said:
        return None
    if any(value != next(iter(said.values())) for value in said.values()):
        call.notes.append(f"config.json says {said} and none of them is called {name}; none was taken")
        return None
    word = next(iter(said))
    call.notes.append(f"{name} was taken from {word} of config.json")
    return word


def _lone_config(parameters: list[inspect.Parameter], config: ModelFile) -> inspect.Parameter | None:
    """The one argument that wants the whole configuration, if the factory is of that kind."""
    named = [each for each in parameters if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)]
    if not named or named[0].name not in _CONFIG_ARGUMENTS or named[0].name in config.values:
        return None
    others_required = any(each.default is each.empty for each in named[1:])
    return None if others_required else named[0]


def _config_call(
    factory: Callable[..., Any], parameter: inspect.Parameter, config: ModelFile, module: ModuleType | None
) -> Call:
    kind = _config_class(factory, parameter, module)
    if kind is not None:
        inner = arguments_for(kind, config, module)
        inner.notes.append(f"{parameter.name} was built as {kind.__name__} from config.json")
        return Call({parameter.name: build(kind, inner)}, inner.used, inner.notes)
    if not config.values and parameter.default is not parameter.empty:
        return Call({})
    # Every word of a group is offered, so that `config.n_embd` is found where the file says d_model.
    return Call({parameter.name: ConfigView(config.values)}, set(config.values))


def _config_class(
    factory: Callable[..., Any], parameter: inspect.Parameter, module: ModuleType | None
) -> type | None:
    """The class that `parameter` is annotated with, else the file's only dataclass called ...Config."""
    function = factory.__init__ if isinstance(factory, type) else factory  # type: ignore[misc]
    try:
        annotated = get_type_hints(function).get(parameter.name)
    except Exception:  # an annotation that cannot be evaluated says nothing
        annotated = None
    if isinstance(annotated, type) and annotated not in (dict, object) and not _is_plain(annotated):
        return annotated
    if module is None:
        return None
    local = [
        each
        for each in vars(module).values()
        if isinstance(each, type)
        and each.__module__ == module.__name__
        and dataclasses.is_dataclass(each)
        and each.__name__.endswith(("Config", "Args", "Configuration"))
    ]
    return local[0] if len(local) == 1 else None


def _is_plain(kind: type) -> bool:
    return kind.__module__ in ("builtins", "typing", "types", "collections.abc")


def _missing(
    factory: Callable[..., Any], name: str, missing: list[inspect.Parameter], config: ModelFile
) -> ModelError:
    names = [each.name for each in missing]
    stories = dict(config.conflicts)
    told = [
        f"the nodes of config.json disagree on {word}: {stories[word]}"
        for each in names
        for word in (each, *aliases(each))
        if word in stories
    ]
    held = ", ".join(config.values) or "nothing"
    return ModelError(
        f"{name} needs {' and '.join(names)}, which config.json does not say",
        where=f"{name}{inspect.signature(factory)}",
        why="; ".join(told) or f"config.json says: {held}",
        next=f"add {', '.join(repr(each) for each in names)} to config.json",
    )
