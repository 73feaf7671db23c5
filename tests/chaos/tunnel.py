"""Lets processes of a network namespace reach ports of this machine's loopback, and can be cut.

    python -m tests.chaos.tunnel outside FOLDER PORT…    unix sockets, of which each stands for a port
    python -m tests.chaos.tunnel inside FOLDER PORT…     run in the namespace: its own loopback, to those sockets

Stop the inner one with SIGSTOP, and the namespace is cut off as if a cable were out: nothing is refused, nothing comes.
"""

import asyncio
import contextlib
import sys
from pathlib import Path

CHUNK = 1 << 16


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Hand on what comes, until nothing more does."""
    with contextlib.suppress(OSError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
    writer.close()


async def outside(folder: Path, ports: list[int]) -> None:
    """Connect each unix socket with its port."""

    async def serve(port: int) -> asyncio.Server:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                there = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                writer.close()
                return
            await asyncio.gather(copy(reader, there[1]), copy(there[0], writer))

        path = folder / f"{port}.sock"
        path.unlink(missing_ok=True)
        return await asyncio.start_unix_server(connected, path)

    servers = [await serve(port) for port in ports]
    await asyncio.gather(*(server.serve_forever() for server in servers))


async def inside(folder: Path, ports: list[int]) -> None:
    """Connect each port of this namespace with its unix socket."""

    async def serve(port: int) -> asyncio.Server:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                there = await asyncio.open_unix_connection(folder / f"{port}.sock")
            except OSError:
                writer.close()
                return
            await asyncio.gather(copy(reader, there[1]), copy(there[0], writer))

        return await asyncio.start_server(connected, "127.0.0.1", port)

    servers = [await serve(port) for port in ports]
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    side = {"outside": outside, "inside": inside}[sys.argv[1]]
    asyncio.run(side(Path(sys.argv[2]), [int(port) for port in sys.argv[3:]]))
