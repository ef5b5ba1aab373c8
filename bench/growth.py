"""Whether a request costs more when much is stored: many accounts beside the ones at work, many entries in the account at work."""

from typing import Any, Final

from bench import bulk
from bench.bulk import Say, mix_of
from bench.callers import DEPOSIT, HISTORY, Callers
from bench.figures import percentile
from bench.stage import Stage
from bench.usage import total

AT_WORK: Final = 1_000
WORK_REQUESTS: Final = 20_000
SINGLE_S: Final = 4.0


def accounts(at: Stage, many: int, slots: int, say: Say, work: int = WORK_REQUESTS) -> dict[str, Any]:
    """The same requests of the same thousand accounts, in a store of a thousand accounts and in one of `many`."""
    mix = mix_of(AT_WORK)
    with at.only():
        say(f"growth: {AT_WORK} accounts")
        bulk.settled(at, mix.openings(), slots)
        few = bulk.settled(at, mix.work(work, "a"), slots)
        say(f"growth: {many} accounts")
        filling = bulk.settled(at, mix_of(many - AT_WORK).openings(), slots)
        with_many = bulk.settled(at, mix.work(work, "b"), slots)
    return {
        "growth_accounts": {
            "accounts": [AT_WORK, many],
            "per_s": [round(few.per_s), round(with_many.per_s)],
            "cpu_s_per_1000": [few.cpu_per_thousand, with_many.cpu_per_thousand],
            "new_accounts_per_s": round(filling.per_s),
        },
        "growth_accounts_ratio": round(few.per_s / with_many.per_s, 3),
        "growth_accounts_cpu_ratio": round(total(with_many.cpu_per_thousand) / total(few.cpu_per_thousand), 3),
    }


def entries(at: Stage, callers: Callers, requests: int, say: Say) -> dict[str, Any]:
    """One account: bulk in the first and in the last tenth of a long run (settlement alone), and one caller and its history before and after it."""
    mix, few = mix_of(1), min(AT_WORK, requests // 10)
    (username,) = mix.usernames()
    say(f"growth: {few} entries in one account")
    bulk.settled(at, mix.work(few, "a"), 1)
    bulk.views_caught_up(at)
    before = _one_caller(callers, username)
    say(f"hot account: {requests} requests of one account")
    with at.only():
        hot = bulk.settled(at, mix.work(requests, "b"), 1)
    say("growth: waiting for the views")
    bulk.views_caught_up(at)
    after = _one_caller(callers, username)
    tenth = requests // 10
    begin, end = hot.rate(0, tenth), hot.rate(requests - tenth, requests)
    return {
        "hot_bulk_per_s": round(hot.per_s),
        "hot_bulk_cpu_s_per_1000": hot.cpu_per_thousand,
        "growth_entries": {"entries": [few, requests + few], "per_s": [round(begin), round(end)], **{name: [before[name], after[name]] for name in before}},
        "growth_entries_ratio": round(begin / end, 3),
        "growth_single_ratio": round(after["single_p50_ms"] / before["single_p50_ms"], 3),
        "growth_history_ratio": round(after["older_history_p50_ms"] / before["older_history_p50_ms"], 3),
    }


def _one_caller(callers: Callers, username: str) -> dict[str, float]:
    runs = {
        "single": callers.alone(username, "/balance/deposit", SINGLE_S, DEPOSIT),
        "history": callers.alone(username, HISTORY, SINGLE_S / 2),
        "older_history": callers.alone(username, callers.next_page(username), SINGLE_S / 2),
    }
    return {f"{what}_p50_ms": round(percentile(run.times_s, 0.5) * 1000, 2) for what, run in runs.items()}
