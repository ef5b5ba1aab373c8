"""`cnop load` against a stand-in API over real HTTP: order, resuming, interruption, and what is told."""

import asyncio
import json
import os
import re
import signal
import sys
from pathlib import Path

import pytest

from infra.local import ports
from ops.journal import Finished, Journal, JournalInvalid
from tests.ops.stand_in import problem
from tests.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "Passw0rd!Passw0rd!"
WITHIN_S = 30.0


class Files:
    """A load file and its users file."""

    def __init__(self, folder: Path, users: int = 3, each: int = 4) -> None:
        self.names = [f"trader_{number}" for number in range(users)]
        self.rows = [f"{name}-{number},{name},deposit,{number + 1}.00" for number in range(each) for name in self.names]
        self.load = folder / "requests.csv"
        self.users = folder / "users.csv"
        self.journal = folder / "requests.csv.progress"
        self.users.write_text("username,password\n" + "".join(f"{name},{PASSWORD}\n" for name in self.names))
        self.write(self.rows)

    def write(self, rows: list[str]) -> None:
        self.load.write_text("\n".join(("key,username,kind,amount", *rows)) + "\n")

    def keys(self, name: str) -> list[str]:
        """The Idempotency-Keys of a user's lines, in their order."""
        return [f"load:{row.split(',')[0]}" for row in self.rows if row.split(",")[1] == name]


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


class Run:
    """One run of the command as a process."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def told(self) -> dict:
        return json.loads(self.out)


async def _start(api, *arguments: object) -> asyncio.subprocess.Process:
    argv = ("-m", "ops.main", "load", *map(str, arguments), "--url", api.url)
    environment = {**os.environ, "COLUMNS": "300", "PYTHONUNBUFFERED": "1"}
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(sys.executable, *argv, cwd=ROOT, env=environment, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe)


async def _end(process: asyncio.subprocess.Process) -> Run:
    out, err = await asyncio.wait_for(process.communicate(), WITHIN_S)
    return Run(process.returncode, out.decode(), err.decode())


async def _load(api, files, *more: object) -> Run:
    return await _end(await _start(api, files.load, "--users", files.users, "--register", "--json", *more))


async def test_every_line_is_sent_once_in_its_users_order(api, files):
    """Users side by side, each user's lines one after another."""
    run = await _load(api, files)
    assert run.status == 0, run.err
    assert dict(api.keys) == {name: files.keys(name) for name in files.names}
    assert run.told == run.told | {"lines": 12, "settled": 12, "refused": 0, "unknown": 0, "failed": 0, "not_sent": 0, "finished_before": 0, "bad": 0}


async def test_a_second_run_sends_nothing(api, files):
    """The journal knows."""
    await _load(api, files)
    run = await _load(api, files)
    assert (run.status, run.told["settled"], run.told["finished_before"]) == (0, 0, 12)
    assert set(api.seen.values()) == {1}


async def test_restart_sends_the_same_keys_again(api, files):
    """What the API does with them is its promise."""
    await _load(api, files)
    assert (await _load(api, files, "--restart")).told["settled"] == 12
    assert set(api.seen.values()) == {2}


async def test_lines_that_were_added_are_sent(api, files):
    """A file may grow between two runs."""
    await _load(api, files)
    files.write([*files.rows, "late,trader_0,withdraw,1"])
    run = await _load(api, files)
    assert (run.told["settled"], run.told["finished_before"], api.keys["trader_0"][-1]) == (1, 12, "load:late")


async def test_a_finished_line_must_not_be_changed(api, files):
    """Its key has been used for what it was."""
    await _load(api, files)
    files.write([files.rows[0].replace("1.00", "2.00"), *files.rows[1:]])
    run = await _load(api, files)
    assert run.status == 2
    assert "line 2, key: trader_0-0 was finished with other content" in run.err


async def test_refusals_are_counted_by_code_and_final(api, files):
    """The user's later lines go on; the next run does not ask again."""
    api.script["load:trader_1-1"] = [lambda: problem(422, "insufficient-funds", command_id="cmd_x")]
    run = await _load(api, files)
    assert (run.status, run.told["settled"], run.told["refused_by_code"]) == (0, 11, {"insufficient-funds": 1})
    assert (await _load(api, files)).told["finished_before"] == 12


async def test_a_line_without_outcome_holds_back_its_user_only(api, files):
    """The others go on; the next run takes it up under the same key, in order."""
    api.script["load:trader_1-1"] = [lambda: problem(503, "outcome-unknown", {"Retry-After": "100000"})]
    run = await _load(api, files, "--retry", 1)
    assert run.status == 1
    assert (run.told["settled"], run.told["unknown"], run.told["not_sent"]) == (9, 1, 2)
    assert "line 6, key trader_1-1: unknown: outcome-unknown" in run.err
    again = await _load(api, files)
    assert (again.status, again.told["settled"], again.told["finished_before"]) == (0, 3, 9)
    assert api.keys["trader_1"] == files.keys("trader_1")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupted_load_goes_on_where_it_stopped(api, files, number):
    """It ends within seconds, says how to go on, and the next run brings the rest: nothing twice, nothing missing."""
    api.hold = asyncio.Event()
    process = await _start(api, files.load, "--users", files.users, "--register", "--json")
    await eventually(lambda: api.under_way == 3, WITHIN_S)
    process.send_signal(number)
    api.hold.set()
    run = await _end(process)
    assert run.status == 130
    assert "Run the same command again to go on" in run.err
    assert run.told["interrupted"]
    assert run.told["settled"] == 3
    again = await _load(api, files)
    assert (again.status, again.told["settled"], again.told["finished_before"]) == (0, 9, 3)
    assert set(api.seen.values()) == {1}
    assert dict(api.keys) == {name: files.keys(name) for name in files.names}


async def test_an_interruption_does_not_wait_for_a_hanging_request(api, files):
    """What was under way is told as unknown, and taken up again."""
    api.hold = asyncio.Event()
    process = await _start(api, files.load, "--users", files.users, "--register", "--json")
    await eventually(lambda: api.under_way == 3, WITHIN_S)
    process.send_signal(signal.SIGINT)
    run = await _end(process)
    assert (run.status, run.told["unknown"], run.told["not_sent"]) == (130, 3, 9)
    api.hold.set()
    assert (await _load(api, files)).told["settled"] == 12


async def test_a_killed_load_goes_on(api, files):
    """The journal has every answer that came; a line that was torn by the kill does not count."""
    await _load(api, files)
    lines = files.journal.read_bytes().splitlines(keepends=True)
    files.journal.write_bytes(b"".join(lines[:6]) + lines[6][:17])
    run = await _load(api, files)
    assert (run.status, run.told["finished_before"], run.told["settled"]) == (0, 5, 7)
    assert len(files.journal.read_bytes().splitlines()) == 13


async def test_users_at_once_are_bounded(api, files):
    """As many as asked for."""
    run = await _load(api, files, "--concurrency", 1)
    assert (run.told["settled"], api.together_max) == (12, 1)


async def test_bad_lines_stop_before_anything_is_sent(api, files):
    """All of them are told."""
    files.write([*files.rows, "x,trader_0,deposit,0", "y,nobody_1,deposit,1"])
    run = await _load(api, files)
    assert run.status == 2
    assert "line 14, amount: Input should be greater than 0" in run.err
    assert not api.seen


async def test_bad_lines_can_be_skipped(api, files):
    """They are counted, the others sent."""
    files.write([*files.rows, "x,trader_0,deposit,0", "y,nobody_1,deposit,1"])
    run = await _load(api, files, "--on-error", "skip")
    assert (run.status, run.told["settled"], run.told["bad"]) == (0, 12, 2)
    assert "line 15, username: nobody_1 is not in the users file (--users)" in run.err


async def test_check_sends_nothing(api, files):
    """And tells the count; a bad file ends with 2."""
    run = await _end(await _start(api, files.load, "--check"))
    assert (run.status, run.out) == (0, "12 lines are valid, 0 are not.\n")
    files.write(["x,trader_0,deposit,0"])
    assert (await _end(await _start(api, files.load, "--check"))).status == 2
    assert not api.seen


async def test_a_wrong_password_fails_that_users_lines(api, files):
    """Told by name; the others go on."""
    api.users["trader_2"] = "another-Passw0rd!"
    run = await _load(api, files)
    assert (run.status, run.told["settled"], run.told["failed"], run.told["not_sent"]) == (1, 8, 1, 3)
    assert "login-failed logging in trader_2" in run.err
    assert PASSWORD not in run.err + run.out


async def test_the_table(api, files):
    """For people: outcomes, refusals by code, the rate."""
    api.script["load:trader_1-1"] = [lambda: problem(422, "insufficient-funds")]
    run = await _end(await _start(api, files.load, "--users", files.users, "--register"))
    assert run.status == 0
    assert [" ".join(line.split()) for line in run.out.splitlines()[1:4]] == ["settled 11", "refused 1", "insufficient-funds 1"]
    assert "12 of 12 lines in" in run.out


@pytest.mark.parametrize("has_users", [True, False])
async def test_a_system_that_was_made_anew_is_not_taken_for_the_old_one(api, files, has_users):
    """Nothing is sent, and nothing left out: at the same address there is another ledger now."""
    await _load(api, files)
    api.keys.clear()
    api.seen.clear()
    if not has_users:
        api.users.clear()
    run = await _load(api, files)
    assert run.status == 1
    assert "is finished, which the system does not confirm" in run.err
    assert not api.seen
    assert (await _load(api, files, "--restart")).told["settled"] == 12


async def test_a_system_that_has_lost_its_latest_is_not_taken_for_whole(api, files):
    """Put back from a copy: what it has still is no proof."""
    await _load(api, files)
    last = json.loads(files.journal.read_text().splitlines()[-1])["key"]
    api.keys[last.split("-")[0]].remove(f"load:{last}")
    run = await _load(api, files)
    assert run.status == 1
    assert f"key {last}, is finished, which the system does not confirm: reading /commands/cmd_load:{last}: 404" in run.err


async def test_a_finished_user_with_another_password_holds_nobody_up(api, files):
    """Another user's line proves that it is the same system."""
    await _load(api, files)
    last = json.loads(files.journal.read_text().splitlines()[-1])["key"].split("-")[0]
    api.users[last] = "another-Passw0rd!"
    run = await _load(api, files)
    assert (run.status, run.told["finished_before"]) == (0, 12), run.err


async def test_a_system_that_is_away_is_told_so(api, files):
    """And not taken for another one."""
    await _load(api, files)
    api.url = f"http://127.0.0.1:{ports.free()}"
    files.journal.write_text(re.sub(r'"url":"[^"]+"', f'"url":"{api.url}"', files.journal.read_text()))
    run = await _load(api, files, "--retry", 0.2)
    assert run.status == 1
    assert "The system does not answer" in run.err
    assert "run the same command again" in run.err


def test_a_journal_of_another_system_is_refused(tmp_path):
    """Its keys are finished somewhere else; --restart forgets them."""
    path = tmp_path / "j"
    with Journal(path, "http://one") as journal:
        journal.add("k", Finished("settled", "", "d"))
    with pytest.raises(JournalInvalid, match="http://one, not into http://two"), Journal(path, "http://two"):
        pass
    with Journal(path, "http://two", anew=True) as journal:
        assert journal.finished == {}


def test_a_journal_in_use_is_refused(tmp_path):
    """Two loads of one file would tell nothing reliable."""
    with (
        Journal(tmp_path / "j", "http://one"),
        pytest.raises(JournalInvalid, match="another load of this file is running"),
        Journal(tmp_path / "j", "http://one"),
    ):
        pass


@pytest.mark.parametrize("damage", ["no json\n", '{"journal":1,"url":"http://one"}\n{"key":"k"}\n', '{"key":"k"}\n', '{"journal":9,"url":"http://one"}\n'])
def test_a_damaged_journal_is_refused(tmp_path, damage):
    """Rather than taken for an empty one."""
    path = tmp_path / "j"
    path.write_text(damage)
    with pytest.raises(JournalInvalid, match="--restart"), Journal(path, "http://one"):
        pass
