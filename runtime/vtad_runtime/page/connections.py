"""Connections to the page: a bounded number, each bounded in time, whoever is at the other end. Uvicorn has no such bounds.

A connection is taken from the system when there is room for it, so whoever opens thousands leaves the descriptors of this
process alone. The oldest one that has not sent a whole request makes room for the next. What is slower than it may be is cut.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from uvicorn import Config, Server
from uvicorn.protocols.http.h11_impl import H11Protocol

from vtad_runtime.contract.errors import one_line
from vtad_runtime.contract.log import warning

MAX_CONNECTIONS = 64  # open at once
REQUEST_S = 5.0  # from connecting to the end of the request's head
TAKING_S = 20.0  # in which a viewer takes the next part of an answer
LOOK_S = 0.1  # between two looks at the time
RETRY_S = 1.0  # after the system gave no connection
MAX_SAID = 20  # lines about the server in the log


class Connection(H11Protocol):
    """One connection, which carries one request."""

    def __init__(self, others: Connections, config: Config, server: Server) -> None:
        super().__init__(config, server.server_state, {"connection": self})  # the app finds it in scope["state"]
        self._others = others
        self.asked = False  # whether a request came
        self.until = self.loop.time() + REQUEST_S  # then it is cut

    def give_time(self) -> None:
        """Its request has come, or it takes the answer."""
        self.asked, self.until = True, self.loop.time() + TAKING_S

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        super().connection_lost(exc)
        self._others.remove(self)


class Connections:
    """Those that are open. All of it runs in the server's event loop."""

    def __init__(self) -> None:
        self._open: dict[Connection, None] = {}  # in order of their coming
        self._room = asyncio.Event()
        self._said: set[str] = set()

    async def serve(self, listening: socket.socket, config: Config, server: Server) -> None:
        """Run the server on connections to `listening` until it is to end."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._log)
        tasks = loop.create_task(self._accept(listening, config, server)), loop.create_task(self._cut_the_slow())
        try:
            await server.serve(sockets=[])  # uvicorn itself accepts none
        finally:
            for task in tasks:
                task.cancel()

    def remove(self, connection: Connection) -> None:
        """It is gone: another one may come."""
        self._open.pop(connection, None)
        self._room.set()

    async def _accept(self, listening: socket.socket, config: Config, server: Server) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connected, _ = await loop.sock_accept(listening)
            except OSError as e:  # no descriptor is left: wait, so that others get the next one
                self._say(f"no viewer can connect: {one_line(e)}")
                await asyncio.sleep(RETRY_S)
                continue
            await self._make_room()
            await self._open_one(connected, Connection(self, config, server))

    async def _open_one(self, connected: socket.socket, connection: Connection) -> None:
        self._open[connection] = None
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, connected)
        except OSError:  # it has gone already
            connected.close()
            self.remove(connection)

    async def _make_room(self) -> None:
        while len(self._open) >= MAX_CONNECTIONS:
            idle = next((c for c in self._open if not c.asked and not c.transport.is_closing()), None)
            if idle is not None:
                idle.transport.abort()
            self._room.clear()
            await self._room.wait()

    async def _cut_the_slow(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LOOK_S)
            for connection in self._open:
                if connection.asked and connection.transport.get_write_buffer_size() == 0:
                    connection.give_time()  # it has taken everything: the turn is ours
                elif loop.time() > connection.until:
                    connection.transport.abort()

    def _log(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What asyncio would print with a traceback."""
        error = context.get("exception")
        self._say(f"{context['message']}" + (f": {type(error).__name__}: {one_line(error)}" if error else ""))

    def _say(self, text: str) -> None:
        """In our log, once, and not for ever."""
        if text not in self._said and len(self._said) < MAX_SAID:
            self._said.add(text)
            warning("live_page", f"live page: {text}")
