"""Where the CPU of a bulk run goes: seconds by process, and the functions of settlement that were found running by a sampling profiler."""

import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

SAMPLES_PER_S: Final = 100
PROFILER_STOP_S: Final = 30.0
NO_PROFILER: Final = "py-spy is not on the PATH (pip install py-spy): CPU by process only"


@dataclass(slots=True)
class Samples:
    """Parts of the CPU time of one process: in a function itself, and in it with all it called. Most first."""

    own: list[tuple[str, float]] = field(default_factory=list)
    whole: list[tuple[str, float]] = field(default_factory=list)


@contextmanager
def sampled(pid: int) -> Iterator[Samples]:
    """Sample a Python process while the block runs; filled when the block is left, empty where there is no profiler."""
    samples = Samples()
    program = shutil.which("py-spy")
    if program is None:
        yield samples
        return
    with tempfile.TemporaryDirectory(prefix="cnop-bench-") as folder:
        file = Path(folder) / "stacks"
        argv = [program, "record", "--pid", str(pid), "--rate", str(SAMPLES_PER_S), "--duration", "unlimited", "--format", "raw"]
        argv += ["--function", "--nonblocking", "--output", str(file)]
        profiler = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603 - the user's own profiler
        try:
            yield samples
        finally:
            profiler.send_signal(2)
            profiler.wait(PROFILER_STOP_S)
        read = parsed(file.read_text().splitlines())
        samples.own, samples.whole = read.own, read.whole


def parsed(lines: Iterable[str]) -> Samples:
    """Folded stacks (`outer;inner count`) as parts of all samples."""
    own: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    for line in lines:
        stack, _, count = line.rpartition(" ")
        frames = stack.split(";")
        own[frames[-1]] += int(count)
        whole.update(dict.fromkeys(frames, int(count)))
    total = own.total()
    return Samples(*([(name, count / total) for name, count in counts.most_common()] for counts in (own, whole)))
