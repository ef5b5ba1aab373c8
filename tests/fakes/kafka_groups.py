"""Kafka's groups, in memory: static members, sessions, rebalances, committed offsets.

A member whose session is over is put out; one that comes again under the same instance id takes the place of the earlier, whose next beat is
told so. A rebalance waits for all members, no longer than a session. Join and sync are one request here: who leads does not matter to us.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

from aiokafka import TopicPartition
from aiokafka.errors import IllegalGenerationError, RebalanceInProgressError, UnknownError, UnknownMemberIdError

if TYPE_CHECKING:
    from tests.fakes.kafka_broker import Broker


@dataclass
class Member:
    """One member. `joined` answers its join while a rebalance waits for the others."""

    instance: str
    topics: tuple[str, ...]
    session_s: float
    deadline: float
    joined: Callable[[Any], None] | None = None
    assignment: tuple[TopicPartition, ...] = ()


@dataclass
class Group:
    """One group."""

    members: dict[str, Member] = field(default_factory=dict)
    generation: int = 0
    rebalancing: int = 0
    """Number of the rebalance that is on; 0 where none is."""
    offsets: dict[TopicPartition, int] = field(default_factory=dict)
    replaced: set[str] = field(default_factory=set)


class Groups:
    """All groups of a broker."""

    def __init__(self, broker: "Broker") -> None:
        self._broker = broker
        self._groups: dict[str, Group] = {}
        self._numbers = count(1)

    def of(self, name: str) -> Group:
        return self._groups.setdefault(name, Group())

    def restarted(self) -> None:
        """A broker that is back gives every member its time anew."""
        for group in self._groups.values():
            for member in group.members.values():
                member.deadline = self._broker.clock.time() + member.session_s

    def join(self, reply: Callable[[Any], None], name: str, member_id: str, instance: str, topics: Sequence[str], session_s: float) -> None:  # noqa: PLR0917 - what a member says when it joins
        """Answers (member id, generation, assignment) when all have come. UnknownMemberIdError; UnknownError (code 82) for one that was replaced."""
        group = self.of(name)
        self._known(group, member_id, new="")
        earlier = next((one for one, member in group.members.items() if member.instance == instance), None)
        if member_id == "":
            member_id = f"{instance}-{next(self._numbers)}"
            if earlier is not None:
                group.replaced.add(earlier)
        if earlier is not None and earlier != member_id:
            member = group.members[member_id] = group.members.pop(earlier)
            member.deadline = 0.0
            if not group.rebalancing and member.topics == tuple(topics):
                self._beat(name, group, member_id)
                reply((member_id, group.generation, member.assignment))
                return
        member = group.members.setdefault(member_id, Member(instance, tuple(topics), session_s, 0.0))
        member.joined = reply
        self._beat(name, group, member_id)
        if not group.rebalancing:
            self._begin(name, group)
        self._maybe_complete(group)

    def heartbeat(self, name: str, member_id: str, generation: int) -> None:
        """RebalanceInProgressError, IllegalGenerationError, UnknownMemberIdError, UnknownError."""
        group = self.of(name)
        self._known(group, member_id)
        if group.generation != generation:
            raise IllegalGenerationError
        self._beat(name, group, member_id)
        if group.rebalancing:
            raise RebalanceInProgressError

    def _known(self, group: Group, member_id: str, new: str | None = None) -> None:
        if member_id in group.replaced:
            raise UnknownError  # FENCED_INSTANCE_ID, which aiokafka does not know
        if member_id != new and member_id not in group.members:
            raise UnknownMemberIdError

    def _beat(self, name: str, group: Group, member_id: str) -> None:
        member = group.members[member_id]
        is_new = member.deadline == 0.0
        member.deadline = self._broker.clock.time() + member.session_s
        if is_new:
            self._watch(name, member_id)

    def _watch(self, name: str, member_id: str) -> None:
        group = self.of(name)
        member = group.members.get(member_id)
        if member is None:
            return
        left = member.deadline - self._broker.clock.time()
        if left > 0:
            self._broker.clock.call_later(left, self._broker.when_up, lambda: self._watch(name, member_id))
            return
        if member.joined is not None:  # it waits for the others: that counts as being there
            member.deadline = self._broker.clock.time() + member.session_s
            self._watch(name, member_id)
            return
        del group.members[member_id]
        if not group.rebalancing:
            self._begin(name, group)
        self._maybe_complete(group)

    def _begin(self, name: str, group: Group) -> None:
        group.rebalancing = next(self._numbers)
        longest = max((member.session_s for member in group.members.values()), default=0.0)
        self._broker.clock.call_later(longest, self._broker.when_up, lambda number=group.rebalancing: self._complete(group, number))

    def _maybe_complete(self, group: Group) -> None:
        if all(member.joined for member in group.members.values()):
            self._complete(group, group.rebalancing)

    def _complete(self, group: Group, number: int) -> None:
        """Static members that have not come keep their place until their session ends."""
        if group.rebalancing != number or number == 0:
            return
        group.rebalancing = 0
        group.generation += 1
        members = sorted(group.members.items(), key=lambda pair: pair[1].instance)
        for index, (member_id, member) in enumerate(members):
            tps = [TopicPartition(topic, number) for topic in member.topics for number in range(self._broker.partitions)]
            member.assignment = tuple(tp for place, tp in enumerate(tps) if place % len(members) == index)
            reply, member.joined = member.joined, None
            if reply:
                reply((member_id, group.generation, member.assignment))
