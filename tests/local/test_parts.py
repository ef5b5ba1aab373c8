"""The small parts: keys, ports, cache, logs."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from infra.local import cache, dynamodb, files, keys, logs, ports
from infra.local.config import LocalSettings
from infra.local.home import SOCKET_PATH_MAX, Home, LocalError


def test_keys_fit_together_and_are_made_once(tmp_path: Path) -> None:
    private, public, secret = tmp_path / "k" / "private", tmp_path / "k" / "public", tmp_path / "k" / "secret"
    keys.ensure(private, public, secret)
    before = [file.read_bytes() for file in (private, public, secret)]
    keys.ensure(private, public, secret)
    assert before == [file.read_bytes() for file in (private, public, secret)]
    signature = load_pem_private_key(private.read_bytes(), None).sign(b"x")  # type: ignore[call-arg, union-attr]
    key = load_pem_public_key(public.read_bytes())
    assert isinstance(key, Ed25519PublicKey)
    key.verify(signature, b"x")
    assert len(secret.read_bytes()) == keys.SECRET_BYTES
    assert {file.stat().st_mode & 0o777 for file in (private, public, secret)} == {0o600}


def test_keys_made_by_many_at_once_are_one_pair(tmp_path: Path) -> None:
    paths = tmp_path / "private", tmp_path / "public", tmp_path / "secret"
    threads = [threading.Thread(target=keys.ensure, args=paths) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    private = load_pem_private_key(paths[0].read_bytes(), None)
    assert keys._public_pem(private) == paths[1].read_bytes()  # type: ignore[arg-type]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["private", "public", "secret"]


def test_a_foreign_key_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "private").write_text("not a key")
    with pytest.raises(LocalError, match="is not a private key"):
        keys.ensure(tmp_path / "private", tmp_path / "public", tmp_path / "secret")


@pytest.mark.parametrize("content", ["another", "nothing"])
def test_keys_that_are_no_pair_are_refused(tmp_path: Path, content: str) -> None:
    private, public, secret = tmp_path / "private", tmp_path / "public", tmp_path / "secret"
    keys.ensure(tmp_path / "other", public, secret)
    if content == "nothing":
        public.write_text("")
    with pytest.raises(LocalError, match=f"{public} is there, but not {private}"):
        keys.ensure(private, public, secret)
    assert not private.exists()
    keys.ensure(private, tmp_path / "its own", secret)
    with pytest.raises(LocalError, match=f"{public} is not the public key of {private}"):
        keys.ensure(private, public, secret)
    public.unlink()
    keys.ensure(private, public, secret)
    assert public.read_bytes() == (tmp_path / "its own").read_bytes()


def test_a_remembered_port_is_used_while_it_is_free() -> None:
    port = ports.free()
    assert ports.choose(0, "X", port, ()) == port
    with socket.create_server((ports.HOST, port)):
        assert ports.choose(0, "X", port, ()) != port
    assert ports.choose(0, "X", port, {port}) != port


def test_a_port_that_another_process_has_chosen_is_not_chosen_again(monkeypatch: pytest.MonkeyPatch) -> None:
    program = "import sys; from infra.local import ports; print(ports.free(), flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:  # noqa: S603 - our own
        assert other.stdout
        port = int(other.stdout.readline())
        assert ports.is_free(port)
        assert ports.choose(0, "X", port, ()) != port
        with pytest.raises(LocalError, match=rf"Port {port} of .* is taken .*X="):
            ports.choose(port, "X", None, ())
        monkeypatch.setattr(ports, "FREE_FIRST", port)
        monkeypatch.setattr(ports, "FREE_LAST", port + 1)
        with pytest.raises(LocalError, match="No free port"):
            ports.free()
        other.communicate("")
    assert ports.free() == port
    assert ports.choose(0, "X", port, ()) == ports.choose(port, "X", None, ()) == port
    with pytest.raises(LocalError, match="No free port"):
        ports.free()


def test_a_long_home_gets_a_short_socket(tmp_path: Path) -> None:
    home = Home(tmp_path / ("long" * 40))
    assert len(bytes(home.socket)) <= SOCKET_PATH_MAX
    assert home.socket != Home(tmp_path / ("long" * 41)).socket


def test_settings_go_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNOP_PORT", "1234")
    monkeypatch.setenv("CNOP_DYNAMODB", "")
    assert (LocalSettings.of({}).port, LocalSettings.of({}).dynamodb) == (1234, "auto")
    assert LocalSettings.of({"CNOP_PORT": "5"}).port == 5


def test_a_failed_command_is_told_with_its_last_lines_and_log(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "x.log"
    program = "import sys; print('one'); print('two', file=sys.stderr); sys.exit(7)"
    with pytest.raises(LocalError) as told:
        cache.run_logged([sys.executable, "-c", program], log, lambda _: None, "It failed")
    assert str(told.value).startswith(f"It failed (exit status 7; log: {log})")
    assert {"  one", "  two"} <= set(str(told.value).splitlines())


def test_a_half_built_thing_never_counts_and_is_swept(tmp_path: Path) -> None:
    target = tmp_path / "thing"

    def build() -> None:
        with cache.building(target, lambda *_: None, "part") as folder:
            assert folder is not None
            (folder / "product").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        build()
    (tmp_path / ".thing.build-dead").mkdir()  # of a builder that was killed
    assert not target.exists()
    with cache.building(target, lambda *_: None, "part") as folder:
        assert folder is not None
        (folder / "product").rename(target) if (folder / "product").exists() else (folder / "new").touch()
        (folder / "new").rename(target)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []
    with cache.building(target, lambda *_: None, "part") as folder:
        assert folder is None


@pytest.mark.parametrize("is_held", [True, False], ids=["still held", "just freed"])
def test_what_another_builder_finished_before_the_lock_was_taken_is_not_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_held: bool) -> None:
    target, told = tmp_path / "thing", []

    @contextmanager
    def finished_just_before(path: Path, *, wait: bool) -> Iterator[bool]:
        target.touch()
        if is_held and not wait:
            yield False
        else:
            with files.locked(path, wait=wait) as mine:
                yield mine

    monkeypatch.setattr(cache, "locked", finished_just_before)
    with cache.building(target, lambda *words: told.append(words), "part") as folder:
        assert folder is None
    assert len(told) == is_held


def test_of_two_builders_one_builds(tmp_path: Path) -> None:
    target, built = tmp_path / "thing", []
    inside = threading.Barrier(2, timeout=10)

    def build() -> None:
        inside.wait()
        with cache.building(target, lambda *_: None, "part") as folder:
            if folder is not None:
                built.append(folder)
                (folder / "product").touch()
                (folder / "product").rename(target)

    threads = [threading.Thread(target=build) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1


def test_without_binary_and_cargo_dynoxide_is_refused_with_the_ways_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(LocalError, match="CNOP_DYNAMODB=ministack"):
        dynamodb.ensure("dynoxide", lambda *_: None)


def test_another_version_on_the_path_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binary = tmp_path / "dynoxide"
    binary.write_text("#!/bin/sh\necho dynoxide 1.0.0\n")
    binary.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin")
    assert dynamodb._found() is None
    binary.write_text(f"#!/bin/sh\necho dynoxide {dynamodb.VERSION}\n")
    assert dynamodb._found() == binary


def _log(path: Path, *lines: object) -> Path:
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def test_logs_are_merged_by_time(tmp_path: Path) -> None:
    one = _log(
        tmp_path / "one.log", {"timestamp": "2026-01-01T00:00:01Z", "message": "a"}, "a continued line", {"timestamp": "2026-01-01T00:00:03Z", "message": "c"}
    )
    two = _log(tmp_path / "two.log", "12:M 2026-01-01T00:00:02.500+00:00 * b")
    assert [(line.name, line.time[-6:]) for line in logs.tail([one, two], 10)][:2] == [("one", ":00:01"), ("one", ":00:01")]
    assert [line.name for line in logs.tail([one, two], 10)] == ["one", "one", "two", "one"]
    assert len(logs.tail([one, two], 2)) == 2
    assert logs.tail([one, two], 0) == []


def test_what_went_wrong_is_told_without_frames() -> None:
    head = {"timestamp": "2026-01-01T00:00:01Z", "level": "critical", "service_name": "cnop-origin", "message": "process failed"}
    errors = [{"type": "PortTaken", "text": "port 1 is taken", "frames": ["a.py:1 f"]}, {"type": "OSError", "text": "in use", "frames": ["b.py:2 g"]}]
    for line, told in (
        ({**head, "reason": "port 1 is taken", "exception": errors}, "2026-01-01T00:00:01Z critical process failed reason=port 1 is taken"),
        ({**head, "exception": errors}, "2026-01-01T00:00:01Z critical process failed exception=PortTaken: port 1 is taken; OSError: in use"),
        ({**head, "request_id": None, "error": "no answer", "partition": 0}, "2026-01-01T00:00:01Z critical process failed error=no answer partition=0"),
        (head, "2026-01-01T00:00:01Z critical process failed"),
    ):
        assert logs.brief(json.dumps(line)) == told
    for foreign in ("12:M 01 Jan 2026 * Ready", "[1]", "7", '{"message":"x"}', '{"timestamp":1,"level":2,"message":3,"exception":5}', ""):
        assert logs.brief(foreign) == foreign


def test_one_request_is_found_also_in_batches_and_rotated_logs(tmp_path: Path) -> None:
    old = {"timestamp": "2026-01-01T00:00:01Z", "request_id": "r1", "message": "old"}
    batch = {"timestamp": "2026-01-01T00:00:02Z", "request_ids": ["r0", "r1"], "message": "batch"}
    other = {"timestamp": "2026-01-01T00:00:02Z", "request_id": "r2", "message": "about r1"}
    _log(tmp_path / "one.log.1", old)
    log = _log(tmp_path / "one.log", other, batch, "r1 in a line that is no JSON")
    assert [json.loads(line.text)["message"] for line in logs.tail([log], 10, "r1")] == ["old", "batch"]


def test_following_goes_over_a_rotation(tmp_path: Path) -> None:
    log = _log(tmp_path / "one.log", "before")

    def rotated() -> None:
        with log.open("a") as old:
            old.write("last of the old one\nse")
        log.rename(tmp_path / "one.log.1")
        log.write_text("cond\n")

    steps = iter([lambda: log.open("a").write("first\n"), rotated, lambda: None, lambda: None])
    ended = threading.Event()

    def go_on() -> bool:
        step = next(steps, None)
        if step is None:
            ended.set()
            return False
        step()
        return True

    assert [line.text for line in logs.follow(lambda: [log], "", go_on)] == ["first", "last of the old one", "second"]
    assert ended.is_set()


def test_a_private_file_is_whole_or_absent(tmp_path: Path) -> None:
    file = tmp_path / "file"
    assert files.create_private(file, b"one")
    assert not files.create_private(file, b"two")
    assert file.read_bytes() == b"one"
    files.write_private(file, b"three")
    assert file.read_bytes() == b"three"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
