"""What a source file could do, read from its syntax tree: information for the reader, no protection.

A file that hides its intent (`getattr(__import__("o" + "s"), ...)`) shows only that it hides something: such
constructs are listed as dynamic. Protection is what `isolate.py` does.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Kind = Literal["network", "process", "files", "dynamic code", "native code", "environment"]
KINDS: tuple[Kind, ...] = ("network", "process", "files", "dynamic code", "native code", "environment")

# A name here stands for itself and everything below it.
_MODULES: dict[Kind, str] = {
    "network": "socket ssl urllib http ftplib smtplib telnetlib xmlrpc asyncio requests httpx aiohttp "
    "paramiko boto3 huggingface_hub torch.hub webbrowser",
    "process": "subprocess multiprocessing pty signal concurrent threading torch.multiprocessing",
    "files": "shutil tempfile pathlib glob fileinput sqlite3 zipfile tarfile",
    "dynamic code": "pickle marshal importlib runpy code codeop dill cloudpickle shelve",
    "native code": "ctypes cffi mmap torch.utils.cpp_extension _posixsubprocess",
    "environment": "getpass keyring pwd platform",
}
# A name here stands for itself alone.
_NAMES: dict[Kind, str] = {
    "process": "os.system os.popen os.fork os.forkpty os.kill os.killpg os._exit os.setsid os.abort os.execv "
    "os.execve os.execvp os.execl os.spawnl os.spawnv os.spawnvp os.posix_spawn "
    "sys.exit atexit.register",
    "files": "open io.open os.open os.remove os.unlink os.rename os.replace os.symlink os.link os.mkdir "
    "os.makedirs os.rmdir os.chmod os.listdir os.walk os.truncate torch.save numpy.load numpy.save",
    "dynamic code": "exec eval compile __import__ globals vars torch.load sys.meta_path sys.path_hooks "
    "sys.modules sys.settrace sys.setprofile",
    "native code": "torch.ops.load_library torch.classes.load_library",
    "environment": "os.environ os.environb os.getenv os.getlogin os.path.expanduser",
}
_KIND_OF_MODULE = {name: kind for kind, names in _MODULES.items() for name in names.split()}
_KIND_OF_NAME = {name: kind for kind, names in _NAMES.items() for name in names.split()}


@dataclass(frozen=True)
class Use:
    """One place in the file that could do something of a kind."""

    kind: Kind
    line: int
    what: str


@dataclass(frozen=True)
class Capabilities:
    """What a file imports and could do, with line numbers."""

    imports: tuple[str, ...]
    uses: tuple[Use, ...] = ()
    problem: str = ""
    """Why the file could not be read, if it could not."""
    found: dict[Kind, tuple[Use, ...]] = field(init=False)

    def __post_init__(self) -> None:
        grouped = {kind: tuple(use for use in self.uses if use.kind == kind) for kind in KINDS}
        object.__setattr__(self, "found", grouped)

    def lines(self) -> list[str]:
        """The report, one line per kind; what was not found is said too."""
        if self.problem:
            return [f"the file cannot be read as Python: {self.problem}"]
        told = [f"imports: {', '.join(self.imports) or 'nothing'}"]
        for kind in KINDS:
            uses = [f"{use.what} (line {use.line})" for use in self.found[kind]]
            more = f" and {len(uses) - 6} more" if len(uses) > 6 else ""
            told.append(f"{kind}: {', '.join(uses[:6]) + more if uses else 'none seen'}")
        return told


def read_capabilities(source: str | bytes | Path) -> Capabilities:
    """Read a file, or source text; a path must be a `Path`."""
    try:
        tree = ast.parse(source.read_bytes() if isinstance(source, Path) else source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as broken:
        return Capabilities((), problem=str(broken) or type(broken).__name__)
    names = _imported(tree)
    uses = sorted({*_imports(tree), *_mentions(tree, names)}, key=lambda use: (use.line, use.kind, use.what))
    roots = sorted({target.split(".")[0] for target in names.values()} | set(_star_imports(tree)))
    return Capabilities(tuple(roots), tuple(uses))


def _imported(tree: ast.Module) -> dict[str, str]:
    """Local name -> full dotted name, for every import anywhere in the file."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for each in node.names:
                local = each.asname or each.name.split(".")[0]
                names[local] = each.name if each.asname else local
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for each in node.names:
                if each.name != "*":
                    names[each.asname or each.name] = f"{node.module}.{each.name}"
    return names


def _star_imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


def _imports(tree: ast.Module) -> Iterator[Use]:
    for node in ast.walk(tree):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules = [node.module, *(f"{node.module}.{each.name}" for each in node.names)]
        for module in modules:
            kind = _kind(module)
            if kind is not None and isinstance(node, ast.Import | ast.ImportFrom):
                yield Use(kind, node.lineno, f"import {module}")
                break


def _mentions(tree: ast.Module, names: dict[str, str]) -> Iterator[Use]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Load):
            dotted = _dotted(node, names)
            kind = _kind(dotted) if dotted else None
            # The name of the module alone was reported where it was imported.
            if kind is not None and dotted and dotted not in _KIND_OF_MODULE:
                yield Use(kind, node.lineno, dotted)
            elif isinstance(node, ast.Attribute) and node.attr in _INNER_DOORS:
                yield Use("dynamic code", node.lineno, f".{node.attr}")
        elif isinstance(node, ast.Call) and _is_computed_getattr(node):
            yield Use("dynamic code", node.lineno, "getattr by a computed name")


_INNER_DOORS = ("__subclasses__", "__globals__", "__builtins__", "__code__")


def _is_computed_getattr(call: ast.Call) -> bool:
    named = isinstance(call.func, ast.Name) and call.func.id == "getattr" and len(call.args) > 1
    return named and not isinstance(call.args[1], ast.Constant)


def _dotted(node: ast.expr, names: dict[str, str]) -> str | None:
    """`np.load` as `numpy.load`; None for what is no chain of names."""
    steps: list[str] = []
    while isinstance(node, ast.Attribute):
        steps.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return None
    root = names.get(node.id)
    if root is None:
        # Not imported: a builtin such as open(), or a local variable, of which nothing is known.
        return node.id if not steps and node.id in _KIND_OF_NAME else None
    return ".".join([root, *reversed(steps)])


def _kind(dotted: str) -> Kind | None:
    """By its own name, else by the longest module that it lies in."""
    if dotted in _KIND_OF_NAME:
        return _KIND_OF_NAME[dotted]
    steps = dotted.split(".")
    modules = (".".join(steps[:length]) for length in range(len(steps), 0, -1))
    return next((_KIND_OF_MODULE[module] for module in modules if module in _KIND_OF_MODULE), None)
