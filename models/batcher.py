"""Which draws share the next pass. Plain logic: no process, no network, no GPU, no clock.

Every pass has the same number of slots. A picture in flight takes slots for the draws that it still
needs to its next look; pictures join and leave between passes; nobody waits for a batch to fill.
All changes of a ticket's state happen here.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from models.certification.arrays import Integers
from models.certification.inquiry import Inquiry
from models.noise import Features

# Pictures that have had so many draws stand behind those that have had fewer, and again whenever
# that number doubles: one that needs 10,000 does not delay one that needs 100.
LEVEL_DRAWS = 256
# One slot in so many is for pictures that stand behind others, and one pass for those to be alone.
ONE_IN = 4
# Parts of a pass for a caller with a picture of high priority, at most; without one, a caller has
# one part.
HIGH_PARTS = ONE_IN - 1


@dataclass(eq=False)
class Ticket:
    """One picture in flight.

    Attributes:
        id: the engine's number for it.
        features: g of the picture.
        inquiry: its draws so far and what they say.
        deadline: when it must be answered, on the caller's clock.
        high: whether it goes before those that are not.
        owner: whose it is: callers share each pass.
        alone: how many of its next passes are for no other picture.
        started: when its first pass was planned.
        issued: draws planned so far.
    """

    id: int
    features: Features
    inquiry: Inquiry
    deadline: float
    high: bool = False
    owner: int = 0
    alone: int = 0
    started: float | None = None
    issued: int = 0
    _served: int = field(default=0, repr=False)

    @property
    def done(self) -> bool:
        """Whether its question is answered."""
        return self.inquiry.stopped is not None

    def anew(self) -> "Ticket":
        """Return the same picture and question without a draw, with another share of α."""
        former = self.inquiry
        question = replace(former.question, restarts=former.question.restarts + 1)
        inquiry = Inquiry(question, former.terms, len(former.total.sums), former.scoring)
        return replace(self, inquiry=inquiry, issued=0, _served=0)


@dataclass(frozen=True)
class Pass:
    """The slots of one pass: ``rows[i]`` is the ticket that slot i draws for.

    Each ticket's slots lie together, ``counts`` of them, in the order of ``tickets``. Slots after
    the last are padding: the pass has more slots than all tickets have use for.
    """

    tickets: tuple[Ticket, ...]
    counts: tuple[int, ...]
    rows: NDArray[np.intp]

    @property
    def filled(self) -> int:
        """How many slots are not padding."""
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
        """Take a picture in; it may have slots in the very next pass."""
        if ticket.id in self._tickets:
            raise ValueError(f"ticket {ticket.id} is in flight already")
        ticket._served = self._passes
        self._tickets[ticket.id] = ticket

    def cancel(self, ticket_id: int) -> bool:
        """Forget a picture whose client has left; its slots are free from the next pass on."""
        return self._tickets.pop(ticket_id, None) is not None

    def withdraw(self) -> list[Ticket]:
        """Let every picture go, to begin anew elsewhere: another h must not go on with its draws.

        Each begins a further run, which has its own share of α, whatever the reason.
        """
        leaving = list(self._tickets.values())
        self._leave(leaving)
        return [ticket.anew() for ticket in leaving]

    def fail(self, tickets: Iterable[Ticket]) -> list[Ticket]:
        """End pictures at which h failed; each leaves with what it has reached.

        That holds, though it depends on the noise: an answer at the last look holds with those at
        all others. To begin anew would give the same picture a further chance to be wrong.
        """
        failed = [ticket for ticket in tickets if self._tickets.get(ticket.id) is ticket]
        for ticket in failed:
            ticket.inquiry.cut()
        self._leave(failed)
        return failed

    def expire(self, now: float) -> list[Ticket]:
        """End every picture whose deadline has come; each leaves with what it has reached."""
        late = [ticket for ticket in self._tickets.values() if ticket.deadline <= now]
        for ticket in late:
            ticket.inquiry.cut()
        self._leave(late)
        return late

    def plan(self, now: float) -> Pass | None:
        """Fill the slots of the next pass; None when there is nothing to draw.

        Each caller has an equal share, up to three times as large with a picture of high priority,
        as long as the others have half of the pass; what one has no use for goes to the others.
        Within a share, high priority goes first, then those with fewer draws, then the older: each
        gets what it needs to its next look. But a quarter is for whoever has gone longest without a
        slot of those that stand behind the first in priority or draws, so that nobody starves.
        Slots that are left take further draws of the same pictures rather than padding. Pictures
        that are to be alone have every fourth pass, one to each.
        """
        if not self._tickets:
            return None
        self._passes += 1
        turn = sorted(self._tickets.values(), key=lambda one: (*self._stand(one), one.id))
        alone = [ticket for ticket in turn if ticket.alone]
        if alone and (len(alone) == len(turn) or self._passes % ONE_IN == 0):
            turn = [min(alone, key=_served)]
        else:
            turn = [ticket for ticket in turn if not ticket.alone]
        given = dict.fromkeys((ticket.id for ticket in turn), 0)
        for tickets, slots in _shares(turn, self.slots):
            behind = [ticket for ticket in tickets if self._stand(ticket) > self._stand(tickets[0])]
            if behind:
                longest = min(behind, key=_served)
                given[longest.id] = min(self._wanted(longest), max(slots // ONE_IN, 1))
                slots -= given[longest.id]
            self._give(tickets, slots, given)
        free = self._give(turn, self.slots - sum(given.values()), given)
        for ticket in turn:
            if not free:
                break
            spare = ticket.inquiry.question.max_draws - ticket.issued - given[ticket.id]
            more = min(max(spare, 0), free)
            given[ticket.id] += more
            free -= more
        chosen = [ticket for ticket in turn if given[ticket.id]]
        if not chosen:
            return None  # every draw of use is under way already
        counts = [given[ticket.id] for ticket in chosen]
        for ticket, count in zip(chosen, counts, strict=True):
            ticket.issued += count
            ticket._served = self._passes
            ticket.started = now if ticket.started is None else ticket.started
        rows = np.zeros(self.slots, dtype=np.intp)
        rows[: self.slots - free] = np.repeat(np.arange(len(chosen)), counts)
        return Pass(tuple(chosen), tuple(counts), rows)

    def record(self, done: Pass, scores: Integers) -> Iterator[Ticket]:
        """Give the draws of a pass to their pictures.

        Args:
            done: a pass that :meth:`plan` returned, in the order of planning.
            scores: [slots, K] integer scores.

        Yields:
            A picture whenever it has reached a look, as it stands there; one that is ``done`` has
            left. To be exhausted before the next pass is planned.
        """
        start = 0
        for ticket, count in zip(done.tickets, done.counts, strict=True):
            draws = scores[start : start + count]
            start += count
            ticket.alone = max(ticket.alone - 1, 0)
            if self._tickets.get(ticket.id) is not ticket:
                continue  # cancelled or expired while the pass ran
            while len(draws) and not ticket.done:
                look = ticket.inquiry.look
                draws = draws[ticket.inquiry.add_to_look(draws) :]
                if ticket.done:
                    self._leave([ticket])
                if ticket.inquiry.look > look:
                    yield ticket

    def _give(self, tickets: Iterable[Ticket], free: int, given: dict[int, int]) -> int:
        """Give each what it needs to its next look, of ``free`` slots; return those left."""
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

    @staticmethod
    def _stand(ticket: Ticket) -> tuple[bool, int]:
        """Return what orders tickets before their age does."""
        return not ticket.high, (ticket.issued // LEVEL_DRAWS).bit_length()

    @staticmethod
    def _wanted(ticket: Ticket) -> int:
        """Draws to the next look that have not been issued yet, within the budget."""
        inquiry = ticket.inquiry
        ahead = ticket.issued - inquiry.total.draws
        left = inquiry.question.max_draws - ticket.issued
        return min(max(inquiry.wanted - ahead, 0), left)


def _shares(turn: Iterable[Ticket], slots: int) -> Iterator[tuple[list[Ticket], int]]:
    """Divide a pass among callers: the pictures of each, in their order, and its slots.

    Each caller has one slot at least; if there are more callers than slots, those have one who have
    gone longest without.
    """
    owners: dict[int, list[Ticket]] = {}
    for ticket in turn:
        owners.setdefault(ticket.owner, []).append(ticket)
    longest = sorted(owners.values(), key=lambda tickets: min(map(_served, tickets)))
    high = sum(tickets[0].high for tickets in longest)
    # Half of the pass is for the others: one who alone has all of it takes twice as long then, not
    # four times, however much of high priority there is.
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
