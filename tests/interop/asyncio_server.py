"""Each connection is copied back by a `cat` of its own: address, port, and how it gets the connection."""
import asyncio
import socket
import sys

address, port, how = sys.argv[1], int(sys.argv[2]), sys.argv[3]


async def by_pipes(reader, writer):
    cat = await asyncio.create_subprocess_exec("cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)

    async def feed():
        while data := await reader.read(65536):
            cat.stdin.write(data)
            await cat.stdin.drain()
        cat.stdin.close()

    feeding = asyncio.create_task(feed())
    while data := await cat.stdout.read(65536):
        writer.write(data)
        await writer.drain()
    await feeding
    assert await cat.wait() == 0
    writer.close()
    await writer.wait_closed()


async def handed_over(connection):
    cat = await asyncio.create_subprocess_exec("cat", stdin=connection, stdout=connection)
    connection.close()
    assert await cat.wait() == 0


async def main():
    if how == "pipes":
        await (await asyncio.start_server(by_pipes, address, port)).serve_forever()
    listener = socket.create_server((address, port), backlog=50)
    listener.setblocking(False)
    running = set()
    while True:
        connection, _ = await asyncio.get_running_loop().sock_accept(listener)
        connection.setblocking(True)   # for cat
        running.add(task := asyncio.create_task(handed_over(connection)))
        task.add_done_callback(running.discard)


asyncio.run(main())
