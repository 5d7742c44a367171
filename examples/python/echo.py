#!/usr/bin/python3
"""Echoes messages, with asyncio: `echo.py serve 127.0.0.1 7000`, and elsewhere `echo.py ask 127.0.0.1 7000 hello world`."""
import asyncio
import sys

import vmsgr
from vmsgr import aio


async def answer(channel):
    async with channel:
        async for message in channel:
            await channel.send(message)


async def serve(host, port):
    with vmsgr.Session() as session:
        async with aio.listen(session, host, port) as listener:
            print(f"listening on {listener.address}", flush=True)
            async with asyncio.TaskGroup() as tasks:
                while True:
                    tasks.create_task(answer(await listener.accept()))


async def ask(host, port, *words):
    with vmsgr.Session() as session:
        async with await aio.connect(session, host, port) as channel:
            for word in words:
                await channel.send(word.encode())
                print((await channel.recv()).decode())


if __name__ == "__main__":
    what, host, port, *words = sys.argv[1:]
    try:
        asyncio.run(serve(host, int(port)) if what == "serve" else ask(host, int(port), *words))
    except KeyboardInterrupt:
        pass
    except OSError as e:
        sys.exit(f"echo.py: {e.strerror}")
