"""Compiles scalar Python by numba: the same source, the same bits; kept on disk under a key that cannot go stale.

Numba's own cache notices a change of the function's file only, not of what the function calls or reads. Here the
directory of a function is named by the SHA-256 of all that its machine code follows from: its bytecode, the values of
the globals it reads, the keys of the compiled functions it calls, the options and versions of the compiler; and the
named tuples among its arguments count with the names of their fields. What such a key does not cover is refused.

The cache holds machine code that is run as it is found, so it lies under SEXTANT_HOME or, where nothing can be written
there, in a directory that only this user may write.
"""

from __future__ import annotations

import builtins
import dis
import fcntl
import hashlib
import logging
import os
import shutil
import sys
import tempfile
import types
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import llvmlite  # type: ignore[import-untyped]
import numba
import numpy as np
from numba.core import types as numba_types
from numba.core.caching import FunctionCache

from shared.errors import SextantError
from shared.settings import HomeSettings

Compiled = Callable[..., Any]
log = logging.getLogger("sextant.compilation")

KEPT = 300  # cache directories; of more, those that were not used for longest are removed
FOREIGN = ("math", "numpy")  # modules that numba itself knows
OPTIONS: dict[str, Any] = {"fastmath": False, "error_model": "numpy", "forceinline": True}
CONFIG: Any = numba.config  # numba fills it from the environment
VERSIONS = (
    sys.version, numba.__version__, llvmlite.__version__, np.__version__, repr(OPTIONS),
    f"bounds {CONFIG.BOUNDSCHECK} opt {CONFIG.OPT} jit {CONFIG.DISABLE_JIT}",
)  # fmt: skip

_keys: WeakKeyDictionary[Compiled, str] = WeakKeyDictionary()  # of each compiled function


class CompilationError(SextantError):
    """A function that cannot be compiled safely; the message names what it uses and what to do."""


def compile_functions(
    module: types.ModuleType,
    names: Sequence[str],
    namespace: Mapping[str, Compiled] | None = None,
    replace: Mapping[str, Compiled] | None = None,
    allocates: Collection[str] = (),
) -> dict[str, Compiled]:
    """The functions ``names`` of ``module``, compiled: {name: compiled function}, in order of use.

    A function is named after those of its module that it calls. ``namespace`` holds compiled functions of other
    modules (results of earlier calls, under any names): where a function calls their plain form, by whatever name it
    imported it, it calls them. ``replace`` gives compiled functions for globals of this module that have no
    compilable form, such as a loop over a registry: see ``chain``.

    Only functions in ``allocates`` may make or return arrays; the others are compiled without counting references,
    which is most of the cost of a call with twenty arrays. CompilationError: a function reads a global that the
    cache's key does not cover.
    """
    plain: dict[str, types.FunctionType] = {name: getattr(module, name) for name in names}
    if strangers := set(allocates) - set(plain):
        raise CompilationError(
            f"allocates names {', '.join(sorted(strangers))}, which {module.__name__} is not to compile"
        )
    # By identity: code is equal where its text and line are, whatever the globals.
    by_code = {id(_python(f).__code__): f for f in (namespace or {}).values()}
    bound = {k: by_code.get(id(v.__code__), v) if _is_plain(v) else v for k, v in vars(module).items()}
    bound |= dict(replace or {})
    key = _digest(VERSIONS, [_content(f, bound, plain) for f in plain.values()], sorted(allocates))
    directory = _directory(key)
    for name, function in plain.items():
        copy = types.FunctionType(function.__code__, bound, name, function.__defaults__)
        bound[name] = _jit(copy, directory, counts_references=name in allocates)
        _keys[bound[name]] = key
    return {name: bound[name] for name in names}


LINK = 5  # functions that one link of a chain calls
first: Compiled  # what a link calls: bound anew for each link of a chain
second: Compiled
third: Compiled
fourth: Compiled
fifth: Compiled
BOUND = ("first", "second", "third", "fourth", "fifth")


def _two(*arguments: Any) -> None:
    first(*arguments)  # noqa: F821
    second(*arguments)  # noqa: F821


def _three(*arguments: Any) -> None:
    first(*arguments)  # noqa: F821
    second(*arguments)  # noqa: F821
    third(*arguments)  # noqa: F821


def _four(*arguments: Any) -> None:
    first(*arguments)  # noqa: F821
    second(*arguments)  # noqa: F821
    third(*arguments)  # noqa: F821
    fourth(*arguments)  # noqa: F821


def _five(*arguments: Any) -> None:
    first(*arguments)  # noqa: F821
    second(*arguments)  # noqa: F821
    third(*arguments)  # noqa: F821
    fourth(*arguments)  # noqa: F821
    fifth(*arguments)  # noqa: F821


LINKS = {2: _two, 3: _three, 4: _four, 5: _five}


def chain(functions: Sequence[Compiled]) -> Compiled:
    """One compiled function that calls each of ``functions``, in order, with the same arguments: they change arrays
    in place. ValueError when there is none; CompilationError when one did not come from ``compile_functions``."""
    if not functions:
        raise ValueError("an empty chain compiles to nothing; give at least one compiled function")
    for function in functions:
        if function not in _keys:
            raise CompilationError(f"{function!r} is not compiled; compile it with compile_functions first")
    # What a link calls is inlined, so its code is compiled again with it: links of links keep the chain's depth low.
    links = list(functions)
    while len(links) > 1:
        links = [_link(links[n : n + LINK]) for n in range(0, len(links), LINK)]
    return links[0]


def _link(functions: Sequence[Compiled]) -> Compiled:
    if len(functions) == 1:
        return functions[0]
    # Names count too: functions that were compiled in one call share their key.
    code = LINKS[len(functions)].__code__
    key = _digest(VERSIONS, _bytecode(code), [(_python(f).__name__, _keys[f]) for f in functions])
    calls = types.FunctionType(code, {"__name__": __name__} | dict(zip(BOUND, functions, strict=False)))
    compiled = _jit(calls, _directory(key), counts_references=False)
    _keys[compiled] = key
    return compiled


# ── the key ──────────────────────────────────────────────────────────────────────────────────────────────────
def _digest(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _content(function: types.FunctionType, bound: Mapping[str, Any], own: Collection[str]) -> tuple[Any, ...]:
    """All that the machine code of ``function`` follows from, as text and bytes; ``own``: compiled in the same call."""
    if function.__closure__ or function.__kwdefaults__:
        raise CompilationError(
            f"{function.__qualname__} has a closure or keyword-only defaults; pass them as arguments"
        )
    reads = [(name, _value(function, name, bound)) for name in _globals(function.__code__) if name not in own]
    return function.__name__, _bytecode(function.__code__), repr(function.__defaults__), reads


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _bytecode(code: types.CodeType) -> list[Any]:
    """Not the text of the file: it may have changed since it was imported."""
    return [
        (c.co_code, c.co_names, c.co_varnames, c.co_freevars, c.co_cellvars, c.co_argcount, c.co_flags,
         [repr(k) for k in c.co_consts if not isinstance(k, types.CodeType)])
        for c in _codes(code)
    ]  # fmt: skip


def _globals(code: types.CodeType) -> list[str]:
    return sorted({i.argval for c in _codes(code) for i in dis.get_instructions(c) if i.opname == "LOAD_GLOBAL"})


def _value(function: types.FunctionType, name: str, bound: Mapping[str, Any]) -> Any:
    """What the key says of one global; CompilationError for what it cannot speak of."""
    if name not in bound and hasattr(builtins, name):
        return "builtin"
    if name not in bound:
        raise CompilationError(f"{function.__module__}.{function.__name__} reads {name}, which is not defined there")
    value = bound[name]
    if callable(value) and value in _keys:
        return _python(value).__name__, _keys[value]
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, type) and issubclass(value, tuple):
        return value.__module__, value.__qualname__, getattr(value, "_fields", ())
    if _is_constant(value) or _is_foreign(value):
        return repr(value)
    raise CompilationError(
        f"{function.__module__}.{function.__name__} reads {name}, which is {value!r}: the cache's key does not cover "
        f"that. Compile functions before their callers, import them by name, and read only numbers, text, tuples and "
        f"arrays of them"
    )


def _is_constant(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_constant, value))
    return value is None or isinstance(value, bool | int | float | complex | str | bytes | np.generic)


def _is_foreign(value: Any) -> bool:
    """A module that numba knows, or a function or type of one, or of the language."""
    if isinstance(value, types.ModuleType):
        return value.__name__.partition(".")[0] in FOREIGN
    home = getattr(value, "__module__", None) or ""
    return home.partition(".")[0] in (*FOREIGN, "builtins") and not isinstance(value, types.FunctionType)


def _python(function: Compiled) -> types.FunctionType:
    """The plain function; where NUMBA_DISABLE_JIT is set, a compiled function is one already."""
    plain = getattr(function, "py_func", function)
    assert isinstance(plain, types.FunctionType)
    return plain


def _is_plain(value: Any) -> bool:
    return isinstance(value, types.FunctionType) and value not in _keys


# ── the cache ────────────────────────────────────────────────────────────────────────────────────────────────
NumbaCache: Any = FunctionCache  # untyped


class _Cache(NumbaCache):  # type: ignore[misc]
    """Numba's, with the fields of named tuples in the key, and a lock: it numbers its files by what its index holds,
    so two processes that saved different signatures at once would give one the other's machine code."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        with self._locked():
            return super().load_overload(sig, target_context)

    def save_overload(self, sig: Any, data: Any) -> None:
        with self._locked():
            super().save_overload(sig, data)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        directory = Path(self.cache_path)
        directory.mkdir(parents=True, exist_ok=True)  # somebody may have tidied since
        with (directory / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        return (*super()._index_key(sig, codegen), _fields(sig))


def _fields(signature: Any) -> tuple[Any, ...]:
    """The names in the named tuples among the argument types, however deep: fields are compiled to positions."""
    found: list[Any] = []
    for kind in signature:
        if hasattr(kind, "fields"):
            found.append(kind.fields)
        if isinstance(kind, numba_types.BaseTuple):
            found.append(_fields(kind))
    return tuple(found)


def _jit(function: types.FunctionType, directory: Path, counts_references: bool) -> Compiled:
    njit: Any = numba.njit
    compiled: Any = njit(**OPTIONS, _nrt=counts_references)(function)
    if compiled is not function:  # it is where NUMBA_DISABLE_JIT is set
        before, CONFIG.CACHE_DIR = CONFIG.CACHE_DIR, str(directory)
        compiled._cache = _Cache(function)
        CONFIG.CACHE_DIR = before
    return compiled  # type: ignore[no-any-return]


def _directory(key: str) -> Path:
    path = _root() / key
    path.mkdir(exist_ok=True)
    os.utime(path)  # used now
    return path


@cache
def _root() -> Path:
    """Where compiled functions are kept, made and tidied."""
    try:
        root = HomeSettings().home_path / "compiled"
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except (OSError, ValueError) as error:  # settings that are wrong altogether are for load_settings to explain
        root = _private_directory()
        log.warning("compiled functions are kept in %s, for SEXTANT_HOME cannot be used: %s", root, error)
    used: dict[Path, float] = {}
    for path in root.iterdir():
        with suppress(FileNotFoundError):  # another process tidies too
            used[path] = path.stat().st_mtime
    for path in sorted(used, key=used.__getitem__)[:-KEPT]:
        shutil.rmtree(path, ignore_errors=True)
    return root


def _private_directory() -> Path:
    """In the system's place for temporary files, where anybody could have been before us."""
    path = Path(tempfile.gettempdir()) / f"sextant-compiled-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if path.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o022:
        return Path(tempfile.mkdtemp(prefix="sextant-compiled-"))
    return path
