"""Where taps and the target start: without importing what this run does not use.

pyarrow with numpy, DuckDB and ADBC are half of the time that these programs take to start, and Meltano starts three
of them for each run: the tap to discover, which needs none of these, and then tap and target, which need them when
something is new. The Singer SDK imports an HTTP client and a process pool, which serve nothing here.

Looking for garbage among all that modules define is a fifth of the rest, at the start and again at the end of a
process: there is none.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

#: Modules that are imported when something of them is used, with the names that others take from them by
#: `from module import name`, which are functions or classes that are called.
LATER: dict[str, tuple[str, ...]] = {
    "adbc_driver_manager": (),
    "adbc_driver_postgresql": (),
    "adbc_driver_postgresql.dbapi": (),
    "duckdb": (),
    "joblib": ("Parallel", "delayed", "parallel_config"),
    "numpy": (),
    "pyarrow": (),
    "pyarrow.compute": (),
    "pyarrow.parquet": (),
    "requests": (),
    "singer_sdk.streams.graphql": ("GraphQLStream",),
    "singer_sdk.streams.rest": ("RESTStream",),
    "upath": ("UPath",),
}
#: Modules that others use when they are there, and do without when they are not; `never` adds to them.
NEVER = {"pandas"}

_letting_go = threading.Lock()


class _Later(ModuleType):
    """Stands for a module until one of its attributes is asked for."""

    def __init__(self, name: str, callables: Sequence[str]) -> None:
        super().__init__(name)
        if callables:
            # `from module import name` asks for the path too, which is no use of the module yet. To find that of a
            # module in a package would import the package.
            found = None if "." in name else find_spec(name)
            self.__path__ = list(found.submodule_search_locations or ()) if found else []
        for each in callables:
            setattr(self, each, self._calling(each))

    def _calling(self, name: str) -> Callable[..., Any]:
        return lambda *args, **kwargs: getattr(self._module(), name)(*args, **kwargs)

    def _module(self) -> ModuleType:
        """The module itself. It may need others of LATER, so all of them are let go."""
        with _letting_go:
            for name in LATER:
                if isinstance(sys.modules.get(name), _Later):
                    del sys.modules[name]
        module = importlib.import_module(self.__name__)
        vars(self).update(vars(module))  # From now on as quick as the module.
        return module

    def __getattr__(self, name: str) -> Any:
        # Python itself looks for such names, which is no use of the module; but its path is: for modules in it.
        if name.startswith("__") and name not in {"__path__", "__version__"}:
            raise AttributeError(name)
        return getattr(self._module(), name)


class _Never:
    """Finds no module of NEVER, as if it were not installed."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name in NEVER:
            raise ModuleNotFoundError(f"{name} is not used here (ingestion/startup.py)", name=name)
        return None


def import_only_what_is_used() -> None:
    """Hold back the modules of LATER and NEVER in this process; for a program's first lines."""
    for name, callables in LATER.items():
        if name not in sys.modules:
            later = sys.modules[name] = _Later(name, callables)
            parent, _, child = name.rpartition(".")
            if isinstance(sys.modules.get(parent), _Later):
                setattr(sys.modules[parent], child, later)  # As `import pyarrow.compute as pc` looks for it.
    sys.meta_path.insert(0, _Never())


def never(name: str) -> None:
    """Hold back a module that this process has no use for, before something imports it because it is there."""
    NEVER.add(name)


@contextlib.contextmanager
def _starting() -> Iterator[None]:
    """Import a program: only what is used, and never looking for garbage among what stays to the end."""
    atexit.register(gc.freeze)  # Also among what came later: the process ends with all of it.
    gc.disable()
    import_only_what_is_used()
    yield
    gc.freeze()
    gc.enable()


def tap_files() -> None:
    """`tap-files`."""
    with _starting():
        from ingestion.taps.files import TapFiles

    TapFiles.cli()


def tap_postgres() -> None:
    """`tap-postgres`."""
    with _starting():
        from ingestion.taps.postgres import TapPostgres

    TapPostgres.cli()


def target_warehouse() -> None:
    """`target-warehouse`."""
    never("numpy")
    with _starting():
        from ingestion.target.target import TargetWarehouse

    TargetWarehouse.cli()
