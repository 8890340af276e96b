"""Workers with nothing to do make draws of a picture that another worker has.

A client alone then has every worker of a kind. The worker that has the picture remains its only
owner: it says who makes which draws before they are made, takes them in the order in which it
issued them, and decides when there are enough. Nothing depends on what draws say: all workers of a
kind run the same h, and each pass has fresh noise.

Draws that were issued are never replaced: if a helper dies, falls silent or can make no more, which
may depend on them, the picture begins again with the next share of α
(``models.certification.division``). A picture that has begun again has no helpers.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from models.execution import Execution
from service.engine import messages
from service.engine.handle import WorkerHandle
from service.engine.queue import Entries, Entry

# A GPU makes most budgets in one pass, and GPUs of one service need not be alike.
KIND = "cpu"


@dataclass
class Loan:
    """A worker that makes draws of a picture.

    Attributes:
        entry: the picture.
        number: its number.
        begun: whether the worker may begin.
        owed: how many messages ask for draws that it has not made yet.
    """

    entry: Entry
    number: int
    begun: bool = False
    owed: int = 0


class Lending:
    """Which workers make draws of which pictures that others have.

    Args:
        entries: the pictures that each worker has.
    """

    def __init__(self, entries: Mapping[WorkerHandle, Entries]) -> None:
        self._entries = entries
        self._loans: dict[WorkerHandle, Loan] = {}

    def possible(self, entry: Entry, owner: WorkerHandle) -> bool:
        """Say whether other workers could make draws of a picture that ``owner`` has."""
        return len(self._entries) > 1 and owner.kind == KIND and not entry.restarts

    def lend(self, entry: Entry, execution: Execution) -> None:
        """Have all workers without pictures prepare to make draws of one.

        Args:
            entry: the picture; a worker has it.
            execution: the h that makes its draws.
        """
        assert isinstance(entry.place, Entries)
        owner = entry.place.worker
        if not self.possible(entry, owner):
            return
        for worker, theirs in self._entries.items():
            found = worker.calibrations.get(entry.job.model)
            idle = worker.ready and not worker.quiet and not theirs and worker not in self._loans
            alike = worker.kind == owner.kind and found and execution in found.executions
            if worker is not owner and idle and alike:
                self._loans[worker] = Loan(entry, entry.id)
                assist = messages.Assist(
                    id=entry.id, admission=entry.admission(), execution=execution
                )
                worker.send(assist, entry.job.picture.content)

    def heard(
        self, worker: WorkerHandle, message: messages.Assists | messages.Drawn
    ) -> Entry | None:
        """Pass a helper's message on to the worker that has the picture.

        Returns:
            The picture, if draws of it are lost.
        """
        loan = self._loans.get(worker)
        if loan is None or loan.number != message.id or not isinstance(loan.entry.place, Entries):
            return None
        owner = loan.entry.place.worker
        match message:
            case messages.Drawn():
                loan.owed -= 1
                owner.send(message)
            case messages.Assists(able=True):
                loan.begun = True
                owner.send(messages.Lent(id=message.id, helper=worker.name, more=True))
            case messages.Assists():
                if loan.begun:
                    return loan.entry
                del self._loans[worker]
        return None

    def pass_on(self, entry: Entry, message: messages.Draw) -> None:
        """Pass an owner's message on to a helper."""
        for worker, loan in self._loans.items():
            if worker.name == message.helper and loan.entry is entry:
                loan.owed += 1
                worker.send(message)

    def owes(self, worker: WorkerHandle) -> bool:
        """Say whether a worker has draws to make of a picture that another has."""
        loan = self._loans.get(worker)
        return loan is not None and loan.owed > 0

    def busy(self, worker: WorkerHandle) -> None:
        """Note that a worker has a picture of its own: it is asked for no more draws of others."""
        loan = self._loans.get(worker)
        if loan and not loan.begun:
            self.lost(worker)  # no draws are lost
        elif loan and isinstance(loan.entry.place, Entries):
            ended = messages.Lent(id=loan.number, helper=worker.name, more=False)
            loan.entry.place.worker.send(ended)

    def end(self, entry: Entry) -> None:
        """End all loans of a picture that is answered, or begins again."""
        for worker in [one for one, loan in self._loans.items() if loan.entry is entry]:
            worker.send(messages.Cancel(id=self._loans.pop(worker).number))

    def lost(self, worker: WorkerHandle) -> Entry | None:
        """Return the picture of which a worker makes draws that is gone, or silent."""
        loan = self._loans.pop(worker, None)
        if loan is None:
            return None
        worker.send(messages.Cancel(id=loan.number))
        return loan.entry if loan.begun else None
