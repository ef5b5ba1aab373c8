"""A process that brings a stack up with the stub's processes, says `up`, and lives on until it is killed. Arguments: HOME hold|detached."""

import sys
import time
from pathlib import Path

from infra.local.stack import Stack

LIFE_S = 120.0

if __name__ == "__main__":
    runner = sys.executable, str(Path(__file__).with_name("stub.py"))
    stack = Stack(Path(sys.argv[1]), ("origin", "settlement"), runner=runner)
    stack.up(hold=sys.argv[2] == "hold")
    sys.stdout.write("up\n")
    sys.stdout.flush()
    time.sleep(LIFE_S)  # it is killed long before
