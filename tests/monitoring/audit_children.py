"""A program that forks children which write to an audit log, and kills each of them at some moment.

``python audit_children.py FOLDER COUNT SEED``: the key is in ``AUDIT_KEY``. What children were told is on the disk is
written to standard output, one text a line.
"""

import asyncio
import os
import random
import signal
import sys
import time

from mlguard import AuditLog


def child(folder: str, number: int, acknowledged: int) -> None:
    """Write from several tasks at once, and say of each record that it is there as soon as that is promised."""
    log = AuditLog(folder, key=os.environ["AUDIT_KEY"], durability="request", max_bytes=16_384)

    async def write(task: int) -> None:
        for count in range(1_000_000):
            name = f"{number}-{task}-{count}"
            log.put({"event": "request", "name": name, "filling": "x" * random.randrange(200)})
            await log.written()
            os.write(acknowledged, f"{name}\n".encode())  # one write to a pipe comes whole

    async def main() -> None:
        await asyncio.gather(*map(write, range(8)))

    asyncio.run(main())


def main() -> None:
    """Fork and kill."""
    folder, count, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    chance = random.Random(seed)
    for number in range(0, count, 2):
        reading, writing = os.pipe()
        pids = []
        for one in (number, number + 1):
            pid = os.fork()
            if pid == 0:
                os.close(reading)
                child(folder, one, writing)
            pids.append(pid)
        os.close(writing)
        first = os.read(reading, 65_536)
        time.sleep(chance.uniform(0, 0.03))
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        rest = [first]
        while part := os.read(reading, 65_536):
            rest.append(part)
        os.close(reading)
        sys.stdout.write(b"".join(rest).decode())


main()
