"""Twelve connections at once; what is sent comes back. While they are open a program is started with nothing of them."""
import asyncio
import random
import sys

SIZE = 200_000


async def one(n):
    reader, writer = await asyncio.open_connection(sys.argv[1], int(sys.argv[2]))
    data = random.Random(n).randbytes(SIZE)

    async def send():
        for at in range(0, SIZE, 30_000):
            writer.write(data[at:at + 30_000])
            await writer.drain()
            if at == 90_000:
                echo = await asyncio.create_subprocess_exec("sh", "-c", "echo $0; ls /proc/$$/fd | wc -l", str(n),
                                                            stdout=asyncio.subprocess.PIPE)
                said = (await echo.communicate())[0].split()
                assert said[0] == b"%d" % n and int(said[1]) <= 6, said
        writer.write_eof()

    sending = asyncio.create_task(send())
    assert await asyncio.wait_for(reader.read(-1), 40) == data, f"connection {n}"
    await sending
    writer.close()


async def main():
    await asyncio.gather(*(one(n) for n in range(12)))


asyncio.run(main())
