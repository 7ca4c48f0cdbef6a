"""A real PostgreSQL for one test: Debian's programs, a folder of its own, a free port of this machine."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
START_S = 30.0


def require_postgres() -> Path:
    """Where its programs are; skips the test where they are not."""
    if not BINARIES:
        pytest.skip("needs PostgreSQL's programs in /usr/lib/postgresql: apt-get install postgresql")
    return BINARIES[-1]


@contextmanager
def postgres(password: str = "secret") -> Iterator[str]:
    """The address of an empty database, for SQLAlchemy."""
    programs = require_postgres()
    folder = Path(tempfile.mkdtemp(prefix="vtad-postgres-"))
    somebody: dict[str, Any] = {}
    if os.geteuid() == 0:  # it refuses to run as root
        user = _somebody()
        os.chown(folder, user.pw_uid, user.pw_gid)
        somebody = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    data, port = folder / "data", _free_port()
    settings: dict[str, Any] = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, **somebody}
    initdb: list[str | Path] = [
        programs / "initdb",
        "-D",
        data,
        "-U",
        "vtad",
        "-A",
        "trust",
        "-E",
        "UTF8",
        "--locale=C",
        "--no-sync",
    ]
    subprocess.run(initdb, check=True, **settings)
    listens: list[str | Path] = [
        "-k",
        folder,
        "-h",
        "127.0.0.1",
        "-p",
        str(port),
        "-c",
        "fsync=off",
        "-c",
        "logging_collector=off",
    ]
    server = subprocess.Popen(
        [programs / "postgres", "-D", data, *listens], **{**settings, "stderr": subprocess.DEVNULL}
    )
    try:
        _wait_for(port, server)
        yield f"postgresql+psycopg://vtad:{password}@127.0.0.1:{port}/postgres"
    finally:
        server.terminate()
        with suppress(subprocess.TimeoutExpired):
            server.wait(2)  # SIGTERM waits for clients,
        server.send_signal(2)  # SIGINT does not
        server.wait(START_S)
        shutil.rmtree(folder, ignore_errors=True)


def _somebody() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name)
    pytest.skip("needs a user beside root to run PostgreSQL")


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _wait_for(port: int, server: subprocess.Popen[Any]) -> None:
    import psycopg

    until = time.monotonic() + START_S
    while True:
        try:
            psycopg.connect(host="127.0.0.1", port=port, user="vtad", dbname="postgres").close()
            return
        except psycopg.OperationalError:
            assert server.poll() is None, "PostgreSQL ended"
            assert time.monotonic() < until, "PostgreSQL does not answer"
            time.sleep(0.1)
