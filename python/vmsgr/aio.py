"""Message channels for asyncio: the objects of vmsgr, with calls that are awaited. One task may send on a channel while
another receives; several on one side need a lock.

    async with await vmsgr.aio.connect(session, "10.0.0.1", 7000) as channel:
        await channel.send(b"a question")
        async for message in channel: ...

A call that is cancelled has sent or received a message whole, or not at all.
"""
from __future__ import annotations

import asyncio
from typing import Any, AsyncIterator, Callable

import vmsgr

__all__ = ["Channel", "Listener", "connect", "listen"]


async def _ready(add: Callable[..., None], remove: Callable[[int], bool], fd: int) -> None:
    found = asyncio.get_running_loop().create_future()
    add(fd, lambda: None if found.done() else found.set_result(None))
    try:
        await found
    finally:
        remove(fd)


class _Waiting:
    """Something with a descriptor, and how it is waited for."""

    def __init__(self, inner: Any):
        self.inner = inner

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        await _ready(loop.add_reader, loop.remove_reader, self.inner.fileno())

    async def _writable(self) -> None:
        loop = asyncio.get_running_loop()
        await _ready(loop.add_writer, loop.remove_writer, self.inner.fileno())

    def close(self) -> None:
        if not self.inner.closed:
            fd = self.inner.fileno()
            loop = asyncio.get_running_loop()
            loop.remove_reader(fd)
            loop.remove_writer(fd)
            self.inner.close()

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


class Channel(_Waiting):
    inner: vmsgr.Channel

    async def send(self, message: bytes, *, more: bool = False) -> None:
        while True:
            try:
                return self.inner.send(message, more=more, timeout=0)
            except BlockingIOError:
                await self._writable()

    async def recv(self) -> bytes:
        while True:
            try:
                return self.inner.recv(timeout=0)
            except BlockingIOError:
                await self._readable()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            while True:
                yield await self.recv()
        except EOFError:
            return

    def flush(self) -> None:
        self.inner.flush()

    def finish(self) -> None:
        self.inner.finish()


class Listener(_Waiting):
    inner: vmsgr.Listener

    async def accept(self) -> Channel:
        while True:
            try:
                return Channel(self.inner.accept(timeout=0))
            except BlockingIOError:
                await self._readable()

    @property
    def address(self) -> tuple[str, int]:
        return self.inner.address


async def connect(session: vmsgr.Session, host: str, port: int, **options: Any) -> Channel:
    """As Session.connect, in a thread, as it waits for the other side. Cancelled, it closes what comes of it."""
    connecting = asyncio.ensure_future(asyncio.to_thread(session.connect, host, port, **options))
    try:
        return Channel(await asyncio.shield(connecting))
    except asyncio.CancelledError:
        connecting.add_done_callback(lambda c: None if c.cancelled() or c.exception() else c.result().close())
        raise


def listen(session: vmsgr.Session, host: str = "127.0.0.1", port: int = 0, **options: Any) -> Listener:
    return Listener(session.listen(host, port, **options))
