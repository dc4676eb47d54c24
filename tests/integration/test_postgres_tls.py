"""The warehouse behind TLS: all that connects asks for the server's certificate, as the service file says.

The locked server has no TLS, so a process between speaks it, as a pooler or stunnel does, and takes nothing else.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
import trustme
from psycopg2.extensions import parse_dsn

from ingestion import postgres_service
from ingestion.postgres_service import LOADER, TRANSFORMER, read_services, write_services
from ingestion.settings import POSTGRES
from orchestration.services import warehouse_database
from orchestration.services.postgres import HOST
from tests.integration.conftest import TargetHome, text
from tests.pipeline import ROOT

pytestmark = pytest.mark.parametrize("engine", [POSTGRES], indirect=True)

_SSL_REQUEST = struct.pack(">ii", 8, 80877103)
MESSAGES = [
    {
        "type": "SCHEMA",
        "stream": "shop-orders",
        "schema": {"properties": {"id": {"type": "integer"}}},
        "key_properties": ["id"],
    },
    {"type": "RECORD", "stream": "shop-orders", "record": {"id": 1}},
]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `ours.pem`, which signed `server.pem` for the loopback, and `other.pem`, which signed nothing."""
    folder = tmp_path_factory.mktemp("certificates")
    ours = trustme.CA()
    ours.cert_pem.write_to_path(folder / "ours.pem")
    trustme.CA().cert_pem.write_to_path(folder / "other.pem")
    ours.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    return folder


class TlsServer:
    """Takes connections with TLS alone, and passes on what they say to the server behind."""

    def __init__(self, certificates: Path, behind: int) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificates / "server.pem")
        self._behind = behind
        self._listener = socket.create_server((HOST, 0))
        self.port = self._listener.getsockname()[1]
        self.programs: list[str] = []
        """The name that each connection gave itself, once it was encrypted."""
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        # Who does not trust us hangs up.
        with contextlib.suppress(OSError), plain:
            if plain.recv(8, socket.MSG_WAITALL) != _SSL_REQUEST:
                return
            plain.sendall(b"S")
            with self._context.wrap_socket(plain, server_side=True) as client:
                first = client.recv(65536)
                words = first[8:].decode(errors="replace").split("\0")
                self.programs.append(dict(zip(words[::2], words[1::2], strict=False)).get("application_name", ""))
                with socket.create_connection((HOST, self._behind)) as server:
                    server.sendall(first)
                    back = threading.Thread(target=_pass_on, args=(server, client), daemon=True)
                    back.start()
                    _pass_on(client, server)
                    back.join()


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


@pytest.fixture
def tls(
    warehouse: TargetHome, certificates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TlsServer]:
    """What stands before the warehouse's server, and is where the service file says that it is."""
    assert warehouse.database
    with closing(TlsServer(certificates, warehouse.database.server.port)) as server:
        administrator = parse_dsn(warehouse.database.server.dsn()) | {
            "port": str(server.port),
            "sslmode": "verify-full",
            "sslrootcert": str(certificates / "ours.pem"),
        }
        services = tmp_path / "tls.conf"
        known = read_services(postgres_service.service_file())
        write_services(services, known)
        warehouse_database.prepare(administrator, services, warehouse.database.name)
        monkeypatch.setenv("PGSERVICEFILE", str(services))
        yield server


def trust(services: dict[str, dict[str, str]], certificate: Path) -> None:
    """Have all connections trust another certificate."""
    file = postgres_service.service_file()
    write_services(file, {name: each | {"sslrootcert": str(certificate)} for name, each in services.items()})


def dbt() -> subprocess.CompletedProcess[str]:
    """dbt, which only connects."""
    project = str(ROOT / "dbt_project")
    command = [ROOT / "scripts" / "dbt", "debug", "--connection", "--project-dir", project, "--profiles-dir", project]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_whatever_connects_asks_for_the_certificate(warehouse: TargetHome, tls: TlsServer) -> None:
    services = read_services(postgres_service.service_file())
    assert {each["sslmode"] for each in services.values()} == {"verify-full"}
    loaded = warehouse.run(text(MESSAGES))
    assert loaded.returncode == 0, loaded.stderr
    assert warehouse.query("select id from raw_shop.orders") == [(1,)]
    assert "target-warehouse" in tls.programs
    before = len(tls.programs)
    done = dbt()
    assert done.returncode == 0, done.stdout
    assert len(tls.programs) > before
    with closing(postgres_service.connect(postgres_service.connection(TRANSFORMER), "publish")) as connection:
        assert connection.info.ssl_in_use and connection.info.ssl_attribute("protocol").startswith("TLS")


def test_a_certificate_of_somebody_else_is_one_line(warehouse: TargetHome, tls: TlsServer, certificates: Path) -> None:
    services = read_services(postgres_service.service_file())
    trust(services, certificates / "other.pem")
    before = len(tls.programs)
    refused = warehouse.run(text(MESSAGES))
    assert refused.returncode == 1 and "certificate verify failed" in refused.stderr.splitlines()[-1], refused.stderr
    assert "Traceback" not in refused.stderr and services[LOADER]["password"] not in refused.stderr
    with pytest.raises(psycopg2.OperationalError, match="certificate verify failed"):
        postgres_service.connect(postgres_service.connection(TRANSFORMER), "publish")
    done = dbt()
    assert done.returncode != 0 and "certificate verify failed" in done.stdout
    assert len(tls.programs) == before
