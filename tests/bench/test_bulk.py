"""What is read out of a bulk run and of a kill."""

from bench.bulk import Bulk
from bench.profiling import parsed
from bench.recovery import Results
from bench.usage import per_thousand, spent


def test_a_stretch_has_a_rate_of_its_own() -> None:
    """Growth within a run is seen by comparing its first and its last part."""
    run = Bulk(100, 10.0, 1.0, 0.5, {}, [(0.0, 10), (1.0, 30), (2.0, 50), (6.0, 90), (8.0, 100)])
    assert run.rate(0, 50) == 20
    assert run.rate(50, 100) == 50 / 6
    assert run.rate(95, 100) == 10.0


def test_the_gap_of_a_kill_is_told_for_the_first_and_for_all() -> None:
    """The first result of any partition ends one silence, a partition's own first result its own; what was on its way at the kill ends none."""
    results = Results(2)
    for partition, at in ((0, 1.0), (1, 1.5), (0, 2.1), (0, 5.0), (1, 9.0), (0, 5.1)):
        results.note(partition, at)
    gap = results.gap(2.0)
    assert (round(gap.first_s, 3), round(gap.all_s, 3)) == (3.9, 7.5)
    assert results.since(5.05) == {0, 1}
    assert results.since(5.2) == {1}


def test_cpu_is_told_by_process() -> None:
    """What was used between two looks, of processes that were there at the second one; one that took the place of another counts from its start."""
    used = spent({("settlement", 1): 2.0, ("gone", 2): 1.0, ("killed", 3): 4.0}, {("settlement", 1): 5.0, ("kafka", 4): 1.0, ("killed", 5): 6.0})
    assert per_thousand(used, 2_000) == {"settlement": 1.5, "kafka": 0.5, "killed": 3.0}


def test_samples_are_parts_of_the_whole() -> None:
    """A function counts once in a stack however deep it recurses; the innermost one has the time itself."""
    samples = parsed(["main;walk;walk 3", "main;write 1"])
    assert samples.own == [("walk", 0.75), ("write", 0.25)]
    assert samples.whole[0] == ("main", 1.0)
    assert dict(samples.whole)["walk"] == 0.75
