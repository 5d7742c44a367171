"""Peers that only hold their sessions, many in one process: `trunk_peers.py CENTRE PORT ADDRESS ...`, in a namespace that has
these addresses. Each listens there for the centre's session and opens one to it, answers dummies and sends its own. For
counts of peers beyond what a machine has room for real daemons. Prints `ready`; ends with its standard input."""
import asyncio
import itertools
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from lib import trunk_wire as w  # noqa: E402

SIZE, KEEPALIVE_S = 512, 1.0
cookies = itertools.count(1 << 40)


async def hold(reader, writer, session):
    """A session without data, until its connection ends."""
    async def dummies():
        while True:
            writer.write(w.packet(w.DUMMY, SIZE, session=session, stamp=time.monotonic_ns() // 1000))
            await asyncio.sleep(KEEPALIVE_S)
    sending = asyncio.create_task(dummies())
    try:
        while True:
            p = w.Packet(await reader.readexactly(SIZE))
            if p.kind == w.DUMMY:
                writer.write(w.packet(w.ACK, SIZE, session=session, echo=p.stamp))
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        sending.cancel()
        writer.close()


async def accept(reader, writer, node):
    try:
        await reader.readexactly(len(w.greeting()))
        asked = w.Packet(await reader.readexactly(w.HELLO_BYTES))
    except (asyncio.IncompleteReadError, ConnectionError):
        return
    if asked.session:
        writer.write(w.hello(session=asked.session, node=node, packet_bytes=SIZE, answer=1))
        writer.close()
        return
    session = next(cookies)
    writer.write(w.hello(session=session, node=node, packet_bytes=SIZE))
    await hold(reader, writer, session)


async def connect(address, centre, port, node):
    reader, writer = await asyncio.open_connection(centre, port, local_addr=(address, 0))
    writer.write(w.greeting() + w.hello(node=node, packet_bytes=SIZE))
    answer = w.Packet(await reader.readexactly(w.HELLO_BYTES))
    assert answer.hello()["answer"] == 0, answer.hello()
    await hold(reader, writer, answer.session)


async def main(centre, port, addresses):
    for node, address in enumerate(addresses, 1000):
        await asyncio.start_server(lambda r, o, n=node: accept(r, o, n), address, int(port))
    ours = [asyncio.create_task(connect(a, centre, int(port), n)) for n, a in enumerate(addresses, 1000)]
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for task in ours:
        task.cancel()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
