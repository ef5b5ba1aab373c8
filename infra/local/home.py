"""Names of what runs, and where a stack keeps its things. Imports nothing heavy: the keeper lives as long as the stack."""

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

MACHINES = ("kafka", "dynamodb", "valkey")
PROCESSES = ("origin", "settlement", "projector", "triggers", "market")
SPARES = ("settlement-2",)
"""Second slots, `KIND-SLOT`: started only where a stack names them among its processes."""

SOCKET_PATH_MAX = 90
"""Longest path for a unix socket, in bytes: the system's bound is 104 to 108, and supervisord binds under a name that is longer by a process id first."""


class LocalError(Exception):
    """Something a user can act on: a taken port, a failed download, a process that does not come up. Its text is the whole message."""


@dataclass(frozen=True)
class Home:
    """Where a stack keeps its things. `data` and `keys` are worth a backup, `logs` and `run` are not."""

    path: Path

    @classmethod
    def at(cls, path: Path) -> "Home":
        """The home that is called so from here: however it is spelled (relative, over a link), one folder is one home."""
        return cls(path.resolve())

    @property
    def up_lock(self) -> Path:
        """Held by a `cnop up` at work."""
        return self.run / "up.lock"

    @property
    def data(self) -> Path:
        """One folder for each embedded machine."""
        return self.path / "data"

    @property
    def logs(self) -> Path:
        """`<name>.log` of each process, bounded and rotated by the supervisor."""
        return self.path / "logs"

    @property
    def run(self) -> Path:
        """What only a running stack needs: generated configuration, socket, locks, `state.json`."""
        return self.path / "run"

    @property
    def keys(self) -> Path:
        """Secrets, each of mode 0600."""
        return self.path / "keys"

    @property
    def ports_file(self) -> Path:
        """The ports chosen at the last start, by name."""
        return self.path / "ports.json"

    @property
    def state_file(self) -> Path:
        """Addresses and process ids of the running stack."""
        return self.run / "state.json"

    @property
    def keeper_lock(self) -> Path:
        """Held, with the holder's process id in it, for as long as this stack runs."""
        return self.run / "keeper.lock"

    @property
    def socket(self) -> Path:
        """The supervisor's control socket; under the system's folder for temporary files where this home's own path is too long for a socket."""
        near = self.run / "supervisor.sock"
        if len(bytes(near)) <= SOCKET_PATH_MAX:
            return near
        return Path(tempfile.gettempdir()) / f"cnop-{hashlib.sha256(bytes(self.path)).hexdigest()[:16]}.sock"

    def make(self) -> None:
        """Create the folders, readable by their owner only: logs and data are about people's money."""
        for folder in (self.path, self.data, self.logs, self.run, self.keys):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def kind_and_slot(name: str) -> tuple[str, str]:
    """What a process is, and its slot among its kind; no slot where the name tells none."""
    kind, _, slot = name.partition("-")
    return kind, slot


def log_file(home: Home, name: str) -> Path:
    """The log of one process or machine."""
    return home.logs / f"{name}.log"
