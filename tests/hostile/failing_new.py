"""The other side of src/daemon/tests/failing_new.cc: at which places of the code a shard allocates, and which of them fails.

Only what is the daemon's own fails. Where Seastar's own code allocates, for what follows a future or for a message to another
shard, it gives up when it gets nothing: these places are found by the source lines that the compiler has put together there.
"""
import mmap
import os
import re
import struct
import subprocess

from lib import vmsgrd

PROGRAM = os.path.join(vmsgrd.BIN, "vmsgrd_failing")
PLACES, PLACE_BYTES, HEAD_BYTES = 8192, 24, 56
ON, CALL, CALLER, FAIL_IN, LEAVE = 8, 16, 24, 32, 48
# Lines of the standard library may stand between whose call it is and the call of new.
TRANSPARENT, OWN = re.compile(r"/c\+\+/|\?\?|failing_new"), re.compile(r"/src/[a-z]+/[a-z_]+\.(cc|hh)")
PROGRAM_BYTES_MAX = 1 << 30


class Board:
    def __init__(self, directory):
        self.path = os.path.join(directory, "failing-new")
        with open(self.path, "wb") as f:
            f.truncate(HEAD_BYTES + PLACES * PLACE_BYTES)
        os.chmod(self.path, 0o666)
        with open(self.path, "r+b") as f:
            self.map = mmap.mmap(f.fileno(), 0)
        self.lines = {}

    def word(self, at):
        return struct.unpack_from("=Q", self.map, at)[0]

    def put(self, at, value):
        self.map[at:at + 8] = struct.pack("=Q", value)

    def record(self, on=True):
        self.put(ON, int(on))

    def leave(self, count):
        """So many bytes of the shard's memory are left from its next allocation on; 0: all of it again."""
        self.put(LEAVE, count)

    def places(self):
        """{(call, caller): how often}."""
        found = {}
        for at in range(HEAD_BYTES, HEAD_BYTES + PLACES * PLACE_BYTES, PLACE_BYTES):
            call, caller, count = struct.unpack_from("=QQQ", self.map, at)
            if call:
                found[call, caller] = count
        return found

    def arm(self, place, in_calls=1):
        """The call of that number from now on fails, once."""
        self.put(FAIL_IN, 0)
        self.put(CALL, place[0])
        self.put(CALLER, place[1])
        self.put(FAIL_IN, in_calls)

    def disarm(self):
        """Whether it has failed meanwhile."""
        left = self.word(FAIL_IN)
        self.put(FAIL_IN, 0)
        return left == 0

    def look_up(self, places):
        """The source lines at each address, the innermost first, by what the compiler knows."""
        base = self.word(0)
        wanted = sorted({a for place in places for a in place if 0 < a - base < PROGRAM_BYTES_MAX} - self.lines.keys())
        text = "".join(f"{address - base - 1:#x}\n" for address in wanted)
        done = subprocess.run(["addr2line", "-a", "-i", "-e", PROGRAM], input=text, capture_output=True, text=True,
                              check=True, timeout=300)
        for address, part in zip(wanted, re.split(r"^0x[0-9a-f]+\n", done.stdout, flags=re.M)[1:], strict=True):
            self.lines[address] = part.splitlines()

    def whose(self, place):
        """The line that called, whatever of the standard library lies between."""
        lines = [line for address in place for line in self.lines.get(address, [])]
        return next((line for line in lines if not TRANSPARENT.search(line)), "?")

    def may_fail(self, place):
        return OWN.search(self.whose(place)) is not None
