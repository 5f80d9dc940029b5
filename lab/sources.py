"""Topology files as Python modules, and errors in them told in terms of the file.

A topology file is a person's own code.  When it fails, they want the line and the reason, not our traceback; and
when one of its `assert`s fails, the values on both sides.
"""

from __future__ import annotations

import ast
import linecache
from pathlib import Path
from types import ModuleType, TracebackType

from lab.errors import UsageError


def load_module(path: str | Path) -> ModuleType:
    """Import the file at `path` as a fresh module; UsageError naming file, line and reason when it cannot be."""
    path = Path(path)
    module = ModuleType(f"topologies.{path.stem}")
    module.__file__ = str(path)
    try:
        # Never from a compiled copy: whether there is one must make no difference to a run in virtual time.
        code = compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
    except FileNotFoundError as exc:
        raise UsageError(f"there is no file {path}") from exc
    except SyntaxError as exc:
        line = "" if exc.lineno is None else f"{exc.lineno}:"  # there is none in a file that is no text
        raise UsageError(f"{path}:{line} {exc.msg}") from exc
    except (OSError, ValueError) as exc:  # ValueError: no text either, to Python before 3.11.4
        raise UsageError(f"{path}: {exc}") from exc
    try:
        exec(code, vars(module))  # noqa: S102 - it is a program
    except (Exception, SystemExit) as exc:
        raise UsageError(error_in_file(exc, path)) from exc
    return module


def error_in_file(exc: BaseException, path: str | Path) -> str:
    """`FILE:LINE: Type: message`, with the last line of `path` that the exception passed through."""
    found = _last_frame(exc.__traceback__, str(path))
    where = f"{Path(path).name}:{found.tb_lineno}: " if found else ""
    return f"{where}{type(exc).__name__}: {exc}"


def explain_assertion(exc: AssertionError, path: str | Path) -> str:
    """The failed `assert` of the file as a person wants to read it: place, source and the values compared.

    The operands are evaluated once more, in the frame that failed; an operand that raises is left out.
    """
    found = _last_frame(exc.__traceback__, str(path))
    if found is None:
        return f"{exc}" or "an assertion failed outside the file"
    lines = _statement_at(str(path), found.tb_lineno)
    text = " ".join(line.strip() for line in lines)
    message = f"{Path(path).name}:{found.tb_lineno}: {text}"
    try:
        statement = ast.parse(text).body[0]
    except SyntaxError:
        return message
    if isinstance(statement, ast.Assert) and isinstance(statement.test, ast.Compare):
        scope = {**found.tb_frame.f_globals, **found.tb_frame.f_locals}
        for operand in (statement.test.left, *statement.test.comparators):
            if isinstance(operand, ast.Constant):
                continue
            try:
                value = eval(compile(ast.Expression(operand), str(path), "eval"), scope)
            except Exception:  # noqa: BLE001 - whatever a person's expression raises
                continue
            message += f"\n    {ast.unparse(operand)} is {value!r}"
    if exc.args:
        message += f"\n    {exc}"
    return message


def _last_frame(tb: TracebackType | None, path: str) -> TracebackType | None:
    found = None
    while tb is not None:
        if tb.tb_frame.f_code.co_filename == path:
            found = tb
        tb = tb.tb_next
    return found


def _statement_at(path: str, line: int) -> list[str]:
    """The source lines of the innermost statement that covers `line`."""
    source = linecache.getlines(path)
    try:
        statements = [node for node in ast.walk(ast.parse("".join(source))) if isinstance(node, ast.stmt)]
    except SyntaxError:
        return source[line - 1 : line]
    covering = [node for node in statements if node.lineno <= line <= (node.end_lineno or node.lineno)]
    if not covering:
        return source[line - 1 : line]
    best = max(covering, key=lambda node: node.lineno)
    return source[best.lineno - 1 : best.end_lineno]
