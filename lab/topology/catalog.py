"""Topology files: which there are, what they say, and their parameters.

A topology file has a docstring (its lesson; the first line is its title) and the functions `build(net, ...)`,
`scenario(net)` and `check(run)`.  The keyword parameters of `build` are what `--set` and sweeps vary; their types come
from their annotations, or else from their defaults.  A scenario that needs longer than usual says so in a number
TIMEOUT_S; one that runs programs of the machine names them in a tuple PROGRAMS.

Files are looked for in the checkout's `topologies` folder, then in the working directory and its `topologies`
folder; a path that ends in .py is taken as it is.  Listing reads files without running them.
"""

from __future__ import annotations

import ast
import inspect
import math
import re
import typing
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from types import ModuleType, NoneType, UnionType
from typing import Any, Final

from lab.errors import TopologyError, UsageError
from lab.sources import error_in_file, load_module
from lab.topology.network import Network

_CHECKOUT: Final = Path(__file__).resolve().parent.parent.parent / "topologies"
_YES: Final = frozenset({"true", "yes", "on", "1"})
_NO: Final = frozenset({"false", "no", "off", "0"})
_REQUIRED: Final = inspect.Parameter.empty
_TIMEOUT_S: Final = 600.0
_MOST_NODES: Final = 65_534
"""A node's number is two bytes of its hardware addresses."""
_UNKNOWN_KEYWORD: Final = re.compile(
    r"Network\.(?P<method>\w+)\(\) got an unexpected keyword argument '(?P<keyword>\w+)'"
)


@dataclass(frozen=True, slots=True)
class TopologyInfo:
    """One line of the list."""

    name: str
    title: str
    path: Path
    parameters: Mapping[str, Any]
    """Defaults by name (None where there is none, or it is not a plain value)."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of `build`."""

    name: str
    type: type
    """bool, int, float, str or an Enum."""
    default: Any
    """A plain value (of an Enum its value), or `inspect.Parameter.empty`."""
    choices: tuple[Any, ...] = ()
    """The values allowed, of an Enum or a Literal; empty: any of the type."""
    optional: bool = False
    """Whether it may be None."""
    check: Callable[[Any], Any] | None = None
    """Gives back a value in its one spelling, or raises ValueError: of Annotated[str, check]."""

    def describe(self) -> str:
        """The parameter as messages show it, e.g. "delay_ms: float = 20"."""
        kind = "|".join(str(choice) for choice in self.choices) or self.type.__name__
        return f"{self.name}: {kind}" + ("" if self.default is _REQUIRED else f" = {self.default!r}")


@dataclass(frozen=True, slots=True)
class TopologyModule:
    """A topology file, loaded."""

    name: str
    title: str
    """First line of the docstring."""
    doc: str
    path: Path
    build: Callable[..., None]
    scenario: Callable[[Any], Awaitable[None]]
    check: Callable[[Any], None]
    parameters: Mapping[str, Parameter]
    timeout_s: float
    """How long its scenario may take, in the lab's time: TIMEOUT_S of the file, else 600 s."""
    short: Mapping[str, Any]
    """Parameters with which a long scenario takes seconds and teaches the same: SHORT of the file, else none."""
    programs: tuple[str, ...] = ()
    """Programs of the machine that its scenario runs: PROGRAMS of the file."""


def list_topologies() -> list[TopologyInfo]:
    """The topology files to be found by name, in order of name; the checkout's come before others of the same name."""
    found: dict[str, TopologyInfo] = {}
    for folder in _folders():
        for path in sorted(folder.glob("*.py")):
            info = _look_into(path)
            if info is not None:
                found.setdefault(info.name, info)
    return [found[name] for name in sorted(found)]


def load(name_or_path: str | Path) -> TopologyModule:
    """The topology of this name or in this file.

    UsageError when there is none (with what was probably meant), and naming file and line when it cannot be
    imported or lacks something.
    """
    path = _find(str(name_or_path))
    module = load_module(path)
    build, scenario, check = (_function(module, path, name) for name in ("build", "scenario", "check"))
    doc = inspect.getdoc(module) or ""
    return TopologyModule(
        name=path.stem,
        title=doc.partition("\n")[0].strip(),
        doc=doc,
        path=path,
        build=build,
        scenario=scenario,
        check=check,
        parameters={parameter.name: parameter for parameter in _parameters(build, path)},
        timeout_s=_timeout(module, path),
        programs=_programs(module, path),
        short=_short(module, path),
    )


def bind_parameters(module: TopologyModule, given: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters of the topology: those `given`, as values or as text, and the defaults of the rest.

    The values are plain (bool, int, float, str, None), in the order of `build`.  UsageError for an unknown name,
    listing the valid ones, and for a value that does not fit.
    """
    for name in given:
        if name not in module.parameters:
            raise UsageError(_unknown(module, name))
    bound = {}
    for name, parameter in module.parameters.items():
        if name in given:
            bound[name] = _convert(module.name, parameter, given[name])
        elif parameter.default is _REQUIRED:
            raise UsageError(f"{module.name} needs a value for {name}: --set {name}=...")
        else:
            bound[name] = parameter.default
    return bound


def build_network(module: TopologyModule, values: Mapping[str, Any]) -> Network:
    """The network that `build` describes with these values (of `bind_parameters`).

    TopologyError when the description makes no sense, UsageError for any other error in the file; both name the
    line.
    """
    net = Network(module.name)
    arguments = {
        name: module.parameters[name].type(value)
        if value is not None and issubclass(module.parameters[name].type, Enum)
        else value
        for name, value in values.items()
    }
    try:
        module.build(net, **arguments)
    except TopologyError as exc:
        text = error_in_file(exc, module.path).replace(f"{type(exc).__name__}: ", "", 1)
        raise TopologyError(text, node=exc.node) from exc
    except (Exception, SystemExit) as exc:
        raise UsageError(error_in_file(exc, module.path) + _options_there_are(net, exc)) from exc
    if len(net.nodes) > _MOST_NODES:
        raise TopologyError(f"{module.name} has {len(net.nodes)} nodes; the lab has addresses for {_MOST_NODES}")
    return net


def _options_there_are(net: Network, exc: BaseException) -> str:
    """What a method of the network could have been given instead of a keyword that it does not know; else nothing."""
    called = _UNKNOWN_KEYWORD.search(str(exc)) if isinstance(exc, TypeError) else None
    if called is None:
        return ""
    known = [
        name
        for name, parameter in inspect.signature(getattr(net, called["method"])).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    ]
    close = get_close_matches(called["keyword"], known, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"; {hint}it has {', '.join(known)}" if known else "; it has no options"


def _folders() -> Iterator[Path]:
    seen = set()
    for folder in (_CHECKOUT, Path.cwd() / "topologies", Path.cwd()):
        if folder.is_dir() and folder.resolve() not in seen:
            seen.add(folder.resolve())
            yield folder


def _look_into(path: Path) -> TopologyInfo | None:
    """What a file says of itself, without running it; None when it is not a topology."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None
    functions = {item.name: item for item in tree.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)}
    if not {"build", "scenario", "check"} <= functions.keys():
        return None
    doc = ast.get_docstring(tree) or ""
    arguments = functions["build"].args
    plain = [*arguments.posonlyargs, *arguments.args]
    defaults = dict(zip(reversed(plain), reversed(arguments.defaults), strict=False))
    named = [(arg, defaults.get(arg)) for arg in plain[1:]]
    named += zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    return TopologyInfo(
        name=path.stem,
        title=doc.partition("\n")[0].strip(),
        path=path,
        parameters={arg.arg: _literal(default) for arg, default in named},
    )


def _literal(node: ast.expr | None) -> Any:
    try:
        return None if node is None else ast.literal_eval(node)
    except ValueError:
        return None


def _find(name: str) -> Path:
    if name.endswith(".py") or "/" in name:
        path = Path(name)
        if not path.is_file():
            raise UsageError(f"there is no file {name}")
        return path.resolve()
    for folder in _folders():
        path = folder / f"{name}.py"
        if path.is_file():
            return path.resolve()
    known = [info.name for info in list_topologies()]
    close = get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known) or 'none here'}"
    raise UsageError(f"there is no topology {name!r}; {hint}")


def _function(module: ModuleType, path: Path, name: str) -> Callable[..., Any]:
    function = getattr(module, name, None)
    if not callable(function):
        raise UsageError(f"{path.name}: has no {name}(); a topology file has build, scenario and check")
    line = f"{path.name}:{function.__code__.co_firstlineno}" if inspect.isfunction(function) else path.name
    if name == "scenario" and not inspect.iscoroutinefunction(function):
        raise UsageError(f"{line}: scenario must be written 'async def'")
    if name != "scenario" and inspect.iscoroutinefunction(function):  # calling it would do nothing, and look done
        raise UsageError(f"{line}: {name} must be written 'def', without 'async'")
    return typing.cast(Callable[..., Any], function)


def _short(module: ModuleType, path: Path) -> dict[str, Any]:
    value = getattr(module, "SHORT", {})
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise UsageError(f"{path.name}: SHORT is a dictionary of parameters, not {value!r}")
    return value


def _timeout(module: ModuleType, path: Path) -> float:
    value = getattr(module, "TIMEOUT_S", _TIMEOUT_S)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        raise UsageError(f"{path.name}: TIMEOUT_S is a number of seconds, not {value!r}")
    return float(value)


def _programs(module: ModuleType, path: Path) -> tuple[str, ...]:
    value = getattr(module, "PROGRAMS", ())
    if not isinstance(value, tuple | list) or not all(isinstance(name, str) and name for name in value):
        raise UsageError(f'{path.name}: PROGRAMS is a tuple of names, such as ("nmap", "ss"), not {value!r}')
    return tuple(value)


def _parameters(build: Callable[..., None], path: Path) -> Iterator[Parameter]:
    where = f"{path.name}:{build.__code__.co_firstlineno}"
    try:
        hints = typing.get_type_hints(build, include_extras=True)
    except (NameError, TypeError) as exc:
        raise UsageError(f"{where}: an annotation of build is not understood: {exc}") from exc
    first, *rest = inspect.signature(build).parameters.values() or [None]
    if first is None:
        raise UsageError(f"{where}: build takes the network first: def build(net, ...)")
    for parameter in rest:
        assert parameter is not None
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise UsageError(f"{where}: build cannot take {parameter}; name each parameter")
        yield _parameter(parameter, hints.get(parameter.name), where)


def _parameter(parameter: inspect.Parameter, hint: Any, where: str) -> Parameter:
    default = parameter.default
    optional = default is None
    check = None
    if typing.get_origin(hint) is typing.Annotated:
        hint, *extras = typing.get_args(hint)
        check = next((extra for extra in extras if callable(extra)), None)
    if typing.get_origin(hint) in (UnionType, typing.Union):
        kinds = [kind for kind in typing.get_args(hint) if kind is not NoneType]
        optional = optional or len(kinds) < len(typing.get_args(hint))
        hint = kinds[0] if len(kinds) == 1 else hint
    choices: tuple[Any, ...] = ()
    if typing.get_origin(hint) is typing.Literal:
        choices = typing.get_args(hint)
        hint = type(choices[0])
    if hint is None:
        hint = str if default in (None, _REQUIRED) else type(default)
    if isinstance(hint, type) and issubclass(hint, Enum):
        choices = tuple(member.value for member in hint)
        default = default.value if isinstance(default, hint) else default
    elif hint not in (bool, int, float, str):
        raise UsageError(
            f"{where}: the parameter {parameter.name} of build is a {hint}; use bool, int, float, str, Literal or Enum"
        )
    if hint is float and isinstance(default, int):
        default = float(default)
    return Parameter(parameter.name, hint, default, choices, optional, check)


def _convert(topology: str, parameter: Parameter, value: Any) -> Any:
    if value is None or (isinstance(value, str) and value.lower() == "none" and parameter.optional):
        if parameter.optional:
            return None
        raise UsageError(f"{topology}: {parameter.name} needs a value ({parameter.describe()})")
    if isinstance(value, Enum):
        value = value.value
    if parameter.choices:
        for choice in parameter.choices:
            if value == choice or (isinstance(value, str) and value.lower() == str(choice).lower()):
                return choice
        known = ", ".join(str(choice) for choice in parameter.choices)
        raise UsageError(f"{topology}: {parameter.name}={value} is not one of {known}")
    converted = _number_or_text(parameter.type, value)
    if converted is None:
        raise UsageError(f"{topology}: {parameter.name}={value} does not fit; it is a {parameter.type.__name__}")
    if parameter.check is not None:
        try:
            return parameter.check(converted)
        except ValueError as exc:
            raise UsageError(f"{topology}: {parameter.name}={value}: {exc}") from None
    return converted


def _number_or_text(kind: type, value: Any) -> Any:
    """`value` as a `kind`, or None when it is none."""
    text = value.strip() if isinstance(value, str) else None
    if kind is str:
        return value if text is not None else None
    if kind is bool:
        if text is None:
            return value if isinstance(value, bool) else None
        return True if text.lower() in _YES else False if text.lower() in _NO else None
    if text is None:
        fits = isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
        return kind(value) if fits else None
    try:
        number = kind(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _unknown(module: TopologyModule, name: str) -> str:
    close = get_close_matches(name, module.parameters, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    known = ", ".join(parameter.describe() for parameter in module.parameters.values())
    return f"{module.name} has no parameter {name!r}; {hint}" + (f"it has {known}" if known else "it has none")
