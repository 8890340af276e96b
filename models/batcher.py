"""Decides which draws share the next pass. Plain logic: no process, no network, no GPU, no clock.

Every pass has the same number of slots. A picture in flight takes slots for the draws that it still
needs before its next look. Pictures join and leave between passes; none waits for a batch to fill.
All changes of a ticket's state happen here.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from models.certification.arrays import Draws
from models.certification.interval import IntervalInquiry
from models.certification.kinds import SizeInquiry
from models.certification.split import SplitInquiry
from models.certification.stickers import StickerInquiry
from models.noise import Features

# Pictures with this many draws come after those with fewer, and again whenever that number doubles:
# a picture that needs 10,000 draws does not delay one that needs 100.
LEVEL_DRAWS = 256
# One slot in this many is for pictures that come after others, and one pass in this many for
# pictures that are to be alone.
ONE_IN = 4
# The most parts of a pass for a client with a picture of high priority; without one, a client has
# one part.
HIGH_PARTS = ONE_IN - 1


AnyInquiry = SizeInquiry | StickerInquiry
# The draws of these have numbers.
NUMBERED = SplitInquiry, IntervalInquiry, StickerInquiry


@dataclass(eq=False)
class Ticket:
    """One picture in flight.

    Attributes:
        id: the engine's number for it.
        features: g of the picture.
        inquiry: its draws so far, and what follows from them.
        deadline: when it must be answered, on the caller's clock.
        high: whether it has high priority.
        owner: the client whose picture it is: clients share each pass.
        alone: the number of its next passes that no other picture may share.
        started: when its first pass was planned.
        issued: the number of draws planned so far.
        shared: whether other workers are to make draws of it, so that some must be left for them.
    """

    id: int
    features: Features
    inquiry: AnyInquiry
    deadline: float
    high: bool = False
    owner: int = 0
    alone: int = 0
    started: float | None = None
    issued: int = 0
    shared: bool = False
    _served: int = field(default=0, repr=False)
    # In the order of issue; those that come first are not made yet.
    _parts: "deque[Part]" = field(default_factory=deque, repr=False)

    @property
    def done(self) -> bool:
        """Whether its question is answered."""
        return self.inquiry.stopped is not None

    @property
    def in_flight(self) -> int:
        """The number of draws that are planned, but not recorded."""
        return self.issued - self.inquiry.draws

    @property
    def in_pass(self) -> bool:
        """Whether a pass here is being made for it."""
        return any(not one.helper and one.draws is None for one in self._parts)

    def anew(self) -> "Ticket":
        """Return the same picture and question without any draws, with the next share of α."""
        return replace(
            self, inquiry=self.inquiry.anew(), issued=0, shared=False, _served=0, _parts=deque()
        )


@dataclass(eq=False)
class Part:
    """Draws of one picture that were issued together.

    Attributes:
        count: how many.
        helper: the worker that makes them; empty for this one.
        draws: votes [count] or integer scores [count, K], once they are made.
    """

    count: int
    helper: str = ""
    draws: Draws | None = None


@dataclass(frozen=True)
class Pass:
    """The slots of one pass: ``rows[i]`` is the ticket for which slot i draws.

    Each ticket's slots are adjacent, ``counts`` of them, in the order of ``tickets``. Slots after
    the last are padding: the pass has more slots than all tickets need. ``features`` are those of
    the tickets, for these draws.
    """

    tickets: tuple[Ticket, ...]
    counts: tuple[int, ...]
    rows: NDArray[np.intp]
    features: tuple[Features, ...]

    @property
    def filled(self) -> int:
        """The number of slots that are not padding."""
        return sum(self.counts)


class Batcher:
    """The pictures in flight of one model on one worker.

    Args:
        slots: rows of every pass.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._tickets: dict[int, Ticket] = {}
        self._passes = 0

    def __len__(self) -> int:
        return len(self._tickets)

    @property
    def tickets(self) -> list[Ticket]:
        """The pictures in flight."""
        return list(self._tickets.values())

    def admit(self, ticket: Ticket) -> None:
        """Admit a picture; it may have slots in the next pass."""
        if ticket.id in self._tickets:
            raise ValueError(f"ticket {ticket.id} is already in flight")
        ticket._served = self._passes
        self._tickets[ticket.id] = ticket

    def cancel(self, ticket_id: int) -> bool:
        """Drop a picture whose client has left; its slots are free from the next pass on."""
        return self._tickets.pop(ticket_id, None) is not None

    def withdraw(self) -> list[Ticket]:
        """Release every picture, to begin again elsewhere: another h must not continue its draws.

        Each begins a further run, which has its own share of α, whatever the reason.
        """
        leaving = list(self._tickets.values())
        self._leave(leaving)
        return [ticket.anew() for ticket in leaving]

    def fail(self, tickets: Iterable[Ticket]) -> list[Ticket]:
        """End pictures on which h failed; each leaves with the certificate reached so far.

        This is sound although the failure depends on the noise: an answer at the last look holds
        together with those at all other looks. To begin again would be a further chance to be
        wrong.
        """
        failed = [ticket for ticket in tickets if self._tickets.get(ticket.id) is ticket]
        for ticket in failed:
            ticket.inquiry.cut()
        self._leave(failed)
        return failed

    def expire(self, now: float) -> list[Ticket]:
        """End every picture whose deadline has come; each leaves with its certificate so far."""
        late = [ticket for ticket in self._tickets.values() if ticket.deadline <= now]
        for ticket in late:
            ticket.inquiry.cut()
        self._leave(late)
        return late

    def plan(self, now: float) -> Pass | None:
        """Fill the slots of the next pass; return None if there is nothing to draw.

        It may be called while passes are in flight, and passes are recorded in the order of
        planning. That changes no answer: an inquiry takes its picture's draws in the order of their
        issue, whatever passes they are from, and decides from a prefix of them. So its answer is
        that of passes one at a time; further draws are dropped, whatever they say. They are wasted,
        though, and so are slots that pictures yet to come could have had: a pass is planned beside
        another only if draws that are certainly worth making (:meth:`_certain`) fill it.

        Each client has an equal share, or up to three times as much with a picture of high
        priority, as long as the others have half of the pass. Slots that a client does not need go
        to the others. Within a share, high priority comes first, then pictures with fewer draws,
        then older ones: each gets the draws that it needs before its next look. But a quarter of
        the share is for pictures that come after the first in priority or draws, those longest
        without a slot first, so that none starves. Remaining slots take further draws of the same
        pictures rather than padding. Pictures that are to be alone have every fourth pass, one pass
        for each.
        """
        if not self._tickets or self._hasty:
            return None
        alone = self.next_is_alone
        self._passes += 1
        turn = [ticket for ticket in self._tickets.values() if (ticket.alone > 0) == alone]
        # Of equals, those whose draws are in flight come last.
        turn.sort(key=lambda one: (*_stand(one), bool(one._parts), one.id))
        if alone:
            turn = [min(turn, key=_served)]
        given = dict.fromkeys((ticket.id for ticket in turn), 0)
        for tickets, slots in _shares(turn, self.slots):
            first = _stand(tickets[0])
            if _stand(tickets[-1]) > first:  # they are in order
                behind = [ticket for ticket in tickets if _stand(ticket) > first]
                longest = min(behind, key=_served)
                given[longest.id] = min(self._wanted(longest), max(slots // ONE_IN, 1))
                slots -= given[longest.id]
            self._give(tickets, slots, given)
        free = self._give(turn, self.slots - sum(given.values()), given)
        for ticket in turn:
            if not free:
                break
            spare = ticket.inquiry.issuable - ticket.issued - given[ticket.id]
            more = min(max(spare, 0), free)
            given[ticket.id] += more
            free -= more
        chosen = [ticket for ticket in turn if given[ticket.id]]
        if not chosen:
            return None  # every useful draw is already issued
        counts = [given[ticket.id] for ticket in chosen]
        features = tuple(map(_features, chosen, counts))
        for ticket, count in zip(chosen, counts, strict=True):
            ticket.issued += count
            ticket._parts.append(Part(count))
            ticket._served = self._passes
            ticket.started = now if ticket.started is None else ticket.started
        rows = np.zeros(self.slots, dtype=np.intp)
        rows[: self.slots - free] = np.repeat(np.arange(len(chosen)), counts)
        return Pass(tuple(chosen), tuple(counts), rows, features)

    def record(self, done: Pass, draws: Draws) -> Iterator[Ticket]:
        """Record the draws of a pass with their pictures.

        Args:
            done: a pass that :meth:`plan` returned, in the order of planning.
            draws: votes [slots] or integer scores [slots, K].

        Yields:
            Each picture that reaches a look, in its state at that look; one that is ``done`` has
            left. The iterator must be exhausted before the next pass is planned.
        """
        start = 0
        for ticket, count in zip(done.tickets, done.counts, strict=True):
            own = draws[start : start + count]
            start += count
            ticket.alone = max(ticket.alone - 1, 0)
            if self._tickets.get(ticket.id) is not ticket:
                continue  # cancelled or expired while the pass ran
            self._part(ticket).draws = own
            yield from self._advance(ticket)

    def find(self, number: int) -> Ticket | None:
        """Return the picture with this number, if it is in flight."""
        return self._tickets.get(number)

    def lend(self, ticket: Ticket, helper: str) -> int:
        """Issue further draws of a picture that another worker makes with the same h.

        Whoever makes draws, they have one law, and each set has its place in the order of issue
        before its noise is drawn. So it does not matter who makes which.

        Returns:
            How many: those of a pass, or as many as there may still be.

        Raises:
            ValueError: it has finitely many draws, whose numbers a helper does not know.
        """
        if isinstance(ticket.inquiry, NUMBERED):
            raise ValueError("draws that have numbers must be made here")
        count = min(self.slots, ticket.inquiry.question.max_draws - ticket.issued)
        if count > 0:
            ticket.issued += count
            ticket._parts.append(Part(count, helper))
        return max(count, 0)

    def lent(self, ticket: Ticket, helper: str) -> int:
        """Return how many parts a worker has not returned yet."""
        return sum(one.helper == helper and one.draws is None for one in ticket._parts)

    def deliver(self, ticket: Ticket, helper: str, draws: Draws) -> Iterator[Ticket]:
        """Record the draws that another worker has made, in the order of :meth:`lend`.

        Yields:
            As :meth:`record`.
        """
        part = self._part(ticket, helper)
        if len(draws) != part.count:
            raise ValueError(f"{helper} made {len(draws)} draws, not {part.count}")
        part.draws = draws
        yield from self._advance(ticket)

    @staticmethod
    def _part(ticket: Ticket, helper: str = "") -> Part:
        """Return the first part that a worker has not made yet."""
        return next(one for one in ticket._parts if one.helper == helper and one.draws is None)

    def _advance(self, ticket: Ticket) -> Iterator[Ticket]:
        """Have the inquiry take the draws before which none is missing."""
        while ticket._parts and (own := ticket._parts[0].draws) is not None:
            ticket._parts.popleft()
            while len(own) and not ticket.done:
                look = ticket.inquiry.look
                own = own[ticket.inquiry.add_to_look(own) :]
                if ticket.done:
                    self._leave([ticket])
                if ticket.inquiry.look > look:
                    yield ticket

    def _give(self, tickets: Iterable[Ticket], free: int, given: dict[int, int]) -> int:
        """Give each the slots up to its next look, of ``free`` slots; return the number left."""
        for ticket in tickets:
            if not free:
                break
            more = min(self._wanted(ticket) - given[ticket.id], free)
            given[ticket.id] += more
            free -= more
        return free

    def _leave(self, tickets: Iterable[Ticket]) -> None:
        for ticket in tickets:
            self._tickets.pop(ticket.id, None)

    @property
    def next_is_alone(self) -> bool:
        """Whether the next pass is for a picture that is to be alone."""
        alone = sum(ticket.alone > 0 for ticket in self._tickets.values())
        return alone > 0 and (alone == len(self._tickets) or (self._passes + 1) % ONE_IN == 0)

    @property
    def _hasty(self) -> bool:
        """Whether the next pass should wait until another is recorded."""
        tickets = self._tickets.values()
        if not any(ticket.in_pass for ticket in tickets):
            return False
        needed = self.slots
        for ticket in tickets:
            needed -= self._certain(ticket)
            if needed <= 0:
                return False
        return True

    def _certain(self, ticket: Ticket) -> int:
        """The number of draws that are worth making now, whatever the passes in flight return."""
        if ticket.inquiry.question.target is None and not ticket.shared:
            return ticket.inquiry.issuable - ticket.issued
        return 0 if ticket.in_flight else self._wanted(ticket)

    @staticmethod
    def _wanted(ticket: Ticket) -> int:
        """The number of draws to the next look that are not issued yet, within the budget."""
        left = ticket.inquiry.issuable - ticket.issued
        return min(max(ticket.inquiry.wanted - ticket.in_flight, 0), left)


def _stand(ticket: Ticket) -> tuple[bool, int]:
    """Return the key that orders tickets, before their age."""
    return not ticket.high, (ticket.issued // LEVEL_DRAWS).bit_length()


def _shares(turn: Iterable[Ticket], slots: int) -> Iterator[tuple[list[Ticket], int]]:
    """Divide a pass among clients: the pictures of each, in their order, and its slots.

    Each client has at least one slot; if there are more clients than slots, those longest without
    one come first.
    """
    owners: dict[int, list[Ticket]] = {}
    for ticket in turn:
        owners.setdefault(ticket.owner, []).append(ticket)
    if len(owners) == 1:
        yield from ((tickets, slots) for tickets in owners.values())
        return
    longest = sorted(owners.values(), key=lambda tickets: min(map(_served, tickets)))
    high = sum(tickets[0].high for tickets in longest)
    # Half of the pass is for the others: a client that had all of it takes twice as long then, not
    # four times, however many pictures of high priority there are.
    most = min(max((len(longest) - high) / max(high, 1), 1.0), HIGH_PARTS)
    parts = [most if tickets[0].high else 1.0 for tickets in longest]
    free = slots
    for tickets, part in zip(longest, parts, strict=True):
        share = min(max(int(slots * part / sum(parts)), 1), free)
        if not share:
            return
        yield tickets, share
        free -= share


def _served(ticket: Ticket) -> int:
    """When it last had slots, or was admitted."""
    return ticket._served


def _features(ticket: Ticket, count: int) -> Features:
    """Return the features of a picture for its next draws."""
    if isinstance(ticket.inquiry, NUMBERED):
        numbers = ticket.inquiry.numbers(ticket.issued, count)
        return replace(ticket.features, numbers=numbers)
    return ticket.features
