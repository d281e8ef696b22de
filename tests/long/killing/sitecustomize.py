"""On the path of a process that is to be killed: counts its operations on files in a folder, and dies at one of them.

RKLD_KILL_FOLDER: the folder. RKLD_KILL_AT: the number of the operation to die at; 0 for none, and then
RKLD_KILL_COUNT names a file for their number.
"""

import atexit
import os
import signal
import sys

FOLDER, AT, COUNT = (os.environ.get(f"RKLD_KILL_{name}", "") for name in ("FOLDER", "AT", "COUNT"))
OPERATIONS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod", "os.link"}
done = 0


def hook(event: str, args: tuple) -> None:
    global done
    if event in OPERATIONS and any(FOLDER in os.fsdecode(one) for one in args if isinstance(one, str | bytes)):
        done += 1
        if done == int(AT):
            os.kill(os.getpid(), signal.SIGKILL)


def write_count() -> None:
    with open(COUNT, "w") as file:
        file.write(str(done))


if FOLDER:
    sys.addaudithook(hook)
    if COUNT:
        atexit.register(write_count)
