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
from models.certification.procedure import Inquiry
from models.noise import Features

# Pictures that have had so many draws stand behind those that have had fewer: one that needs
# 10,000 does not delay one that needs 100.
LEVEL_DRAWS = 1024


@dataclass(eq=False)
class Ticket:
    """One picture in flight.

    Attributes:
        id: the engine's number for it.
        features: g of the picture.
        inquiry: its draws so far and what they say.
        deadline: when it must be answered, on the caller's clock.
        high: whether it goes before those that are not.
        alone: how many of its next passes are for no other picture.
        started: when its first pass was planned.
        issued: draws planned so far.
    """

    id: int
    features: Features
    inquiry: Inquiry
    deadline: float
    high: bool = False
    alone: int = 0
    started: float | None = None
    issued: int = 0
    _served: int = field(default=0, repr=False)

    @property
    def done(self) -> bool:
        """Whether its question is answered."""
        return self.inquiry.stopped is not None

    def anew(self) -> "Ticket":
        """Return the same picture and question without a draw."""
        former = self.inquiry
        inquiry = Inquiry(former.question, former.terms, len(former.total.sums), former.scoring)
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

        The reason must have nothing to do with the scores, or beginning anew would bias them.
        """
        leaving = list(self._tickets.values())
        self._leave(leaving)
        return [ticket.anew() for ticket in leaving]

    def expire(self, now: float) -> list[Ticket]:
        """End every picture whose deadline has come; each leaves with what it has reached."""
        late = [ticket for ticket in self._tickets.values() if ticket.deadline <= now]
        for ticket in late:
            ticket.inquiry.cut()
        self._leave(late)
        return late

    def plan(self, now: float) -> Pass | None:
        """Fill the slots of the next pass; None when there is nothing to draw.

        First the picture that has gone longest without a slot gets what it needs to its next look,
        so that nobody starves; then the others in turn: high priority first, then those with
        fewer draws, then the older. Slots that are left take further draws of the same pictures
        rather than padding. A picture that is to be alone has the pass to itself in its turn, and
        waits in those of others.
        """
        if not self._tickets:
            return None
        self._passes += 1
        turn = sorted(self._tickets.values(), key=self._rank)
        longest = min(turn, key=lambda ticket: ticket._served)
        turn.remove(longest)
        turn.insert(0, longest)
        turn = [longest] if longest.alone else [ticket for ticket in turn if not ticket.alone]
        free = self.slots
        given: dict[int, int] = {}
        for ticket in turn:
            given[ticket.id] = min(self._wanted(ticket), free)
            free -= given[ticket.id]
            if not free:
                break
        for ticket in turn:
            if not free:
                break
            spare = ticket.inquiry.question.max_draws - ticket.issued - given[ticket.id]
            more = min(max(spare, 0), free)
            given[ticket.id] += more
            free -= more
        chosen = [ticket for ticket in turn if given.get(ticket.id)]
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

    def _leave(self, tickets: Iterable[Ticket]) -> None:
        for ticket in tickets:
            self._tickets.pop(ticket.id, None)

    def _rank(self, ticket: Ticket) -> tuple[bool, int, int]:
        return not ticket.high, ticket.issued // LEVEL_DRAWS, ticket.id

    @staticmethod
    def _wanted(ticket: Ticket) -> int:
        """Draws to the next look that have not been issued yet, within the budget."""
        inquiry = ticket.inquiry
        ahead = ticket.issued - inquiry.total.draws
        left = inquiry.question.max_draws - ticket.issued
        return min(max(inquiry.wanted - ahead, 0), left)
