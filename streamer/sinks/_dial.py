"""A TCP connection to a host by its name, given up at once when nobody wants it any more.

In: host and port. Out: a connected socket. Event loop only; a thread that nobody waits for asks the name service.
"""

import asyncio
import socket
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from streamer.errors import SinkError

NAME_S = 10.0       # glibc gives a dead name server 5 s before it asks the next one
CONNECT_S = 2.0     # for each address of the host; TCP tries twice in it

Address = tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[Any, ...]]     # as getaddrinfo has them


async def dial(host: str, port: int) -> socket.socket:
    """Connect to the first of the host's addresses that takes it; the socket doesn't block.

    Raises:
        SinkError: none does; the sentence says why.
    """
    addresses = await _resolve(host, port)
    try:
        return await _connect(addresses)
    except ConnectionRefusedError as error:
        reason = "connection refused; check that the broker runs and that this is its host and port"
        raise SinkError(reason) from error
    except TimeoutError as error:
        reason = f"unreachable within {CONNECT_S:g} s; check host, port, and firewalls on the way"
        raise SinkError(reason) from error
    except OSError as error:
        raise SinkError(f"no connection ({error.strerror}); check host, port and this machine's network") from error


async def _resolve(host: str, port: int) -> Sequence[Address]:
    answer: Future[Sequence[Address]] = Future()
    answer.set_running_or_notify_cancel()       # from here on it takes an answer, wanted or not

    def ask() -> None:
        try:
            answer.set_result(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            answer.set_exception(error)

    # Not asyncio's executor: the process would not end before the name service has answered.
    threading.Thread(target=ask, name="name service", daemon=True).start()
    check = "check host, and this machine's name service"
    try:
        return await asyncio.wait_for(asyncio.wrap_future(answer), NAME_S)
    except TimeoutError as error:
        raise SinkError(f"the name service doesn't answer within {NAME_S:g} s; {check}") from error
    except (OSError, UnicodeError) as error:
        raise SinkError(f"no such host ({getattr(error, 'strerror', error)}); {check}") from error


async def _connect(addresses: Sequence[Address]) -> socket.socket:
    """Connect to the first that takes it, else raise the last one's OSError."""
    for i, (family, kind, protocol, _, address) in enumerate(addresses, 1):
        try:
            return await _connect_one(socket.socket(family, kind, protocol), address)
        except OSError:
            if i == len(addresses):
                raise
    raise AssertionError("getaddrinfo fails rather than to find no address")


async def _connect_one(connection: socket.socket, address: tuple[Any, ...]) -> socket.socket:
    connection.setblocking(False)
    # Else a small message waits for TCP's acknowledgement of the one before it, which its receiver delays by 40 ms.
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        async with asyncio.timeout(CONNECT_S):
            await asyncio.get_running_loop().sock_connect(connection, address)
    except BaseException:
        connection.close()
        raise
    return connection
