"""A worker's part in the draws of one picture that several make (``service.engine.lending``)."""

from collections import deque
from collections.abc import Iterable

import numpy as np

from models.batcher import NUMBERED, Pass, Ticket
from service.engine import messages
from service.engine.channel import Channel
from service.engine.pass_runner import PassRunner

# A helper owes this many passes of a picture: one that gets a picture of its own first makes these.
AHEAD = 1


class Helpers:
    """Of a worker that has pictures: who makes draws of them, too.

    Args:
        channel: to the front process.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._of: dict[Ticket, list[str]] = {}

    def want(self, runner: PassRunner, ticket: Ticket) -> None:
        """Ask for helpers for a picture without draws if it will need more than one pass.

        It must be the only one here: with others, the workers have enough to do.
        """
        manifest = runner.predictor.manifest
        # Draws that have numbers are not independent of each other.
        lendable = manifest.scoring == "votes" and not isinstance(ticket.inquiry, NUMBERED)
        long = ticket.inquiry.least > runner.batcher.slots and len(runner.batcher) == 1
        if lendable and long and not ticket.alone:
            ticket.shared = True
            wants = messages.Wants(id=ticket.id, execution=runner.predictor.execution)
            self._channel.send(wants)

    def change(self, ticket: Ticket, message: messages.Lent) -> None:
        """Note that a worker makes draws of a picture, or no longer does.

        Of a picture that has begun again here, the front ends what it lent, perhaps just now.
        """
        if not ticket.shared:
            return
        names = self._of.setdefault(ticket, [])
        if message.more:
            names.append(message.helper)
        elif message.helper in names:
            names.remove(message.helper)

    def issue(self, runner: PassRunner) -> None:
        """Issue further draws of a runner's pictures to their helpers."""
        if not self._of:
            return
        for ticket in runner.batcher.tickets:
            for helper in self._of.get(ticket, ()):
                while runner.batcher.lent(ticket, helper) < AHEAD:
                    count = runner.batcher.lend(ticket, helper)
                    if not count:
                        break
                    self._channel.send(messages.Draw(id=ticket.id, helper=helper, draws=count))

    def forget(self, number: int) -> None:
        """Drop what is known of a picture that has left, or begins again."""
        self._of = {ticket: names for ticket, names in self._of.items() if ticket.id != number}


class Errands:
    """Of a helper: the pictures of which it makes draws, and the draws that it owes.

    Args:
        channel: to the front process.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        # Their tickets are in no batcher, because others record their draws.
        self._pictures: dict[int, tuple[PassRunner, Ticket]] = {}
        self._owed: deque[messages.Draw] = deque()

    def __len__(self) -> int:
        return len(self._owed)

    def add(self, runner: PassRunner, ticket: Ticket) -> None:
        """Be ready to make draws of a picture."""
        self._pictures[ticket.id] = runner, ticket
        self._channel.send(messages.Assists(id=ticket.id, able=True))

    def owe(self, message: messages.Draw) -> None:
        """Note draws that are to be made."""
        self._owed.append(message)

    def cancel(self, number: int) -> None:
        """Drop a picture, and the draws that are owed of it."""
        self._pictures.pop(number, None)
        self._owed = deque(one for one in self._owed if one.id != number)

    def refuse(self, gone: Iterable[PassRunner]) -> None:
        """Say that draws of runners that are gone can no longer be made."""
        for number, (runner, _) in list(self._pictures.items()):
            if runner in gone:
                self.cancel(number)
                self._channel.send(messages.Assists(id=number, able=False))

    @property
    def next_picture(self) -> int:
        """The picture whose draws come next."""
        return self._owed[0].id

    def run(self) -> None:
        """Make one pass for the picture whose draws come next."""
        owed = self._owed.popleft()
        if owed.id not in self._pictures:
            return
        runner, ticket = self._pictures[owed.id]
        rows = np.zeros(runner.batcher.slots, dtype=np.intp)
        planned = Pass((ticket,), (owed.draws,), rows, (ticket.features,))
        made = runner.collect(planned, runner.submit(planned))
        if made is None:
            self.refuse([runner])
            return
        votes = [] if made.failed else made.draws[: owed.draws].tolist()
        failed = made.failed.get(ticket, "")
        drawn = messages.Drawn(id=owed.id, helper=owed.helper, votes=votes, failed=failed)
        self._channel.send(drawn)
