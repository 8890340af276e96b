"""The batcher without processes, networks or clocks."""

import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.batcher import Batcher, Pass, Ticket
from models.certification.inquiry import Inquiry
from models.certification.question import Question
from models.certification.split import SplitInquiry, SplitTerms
from models.certification.tally import NO_VOTE
from models.certification.terms import Terms
from models.noise import Features

LABELS = 4
TERMS = Terms("gaussian", 0.5, 1.0, "l2", 784)
NOTHING = Features(np.zeros(1, dtype=np.int32), on_grid=True)


def ticket(
    number: int,
    max_draws: int = 1000,
    target: float | None = None,
    deadline: float = 1e9,
    high: bool = False,
    owner: int = 0,
) -> Ticket:
    inquiry = Inquiry(Question(0.99, max_draws, target, "l2"), TERMS, LABELS, "votes")
    return Ticket(number, NOTHING, inquiry, deadline, high, owner)


def votes(planned: Pass, label: int = 0) -> np.ndarray:
    scores = np.zeros((len(planned.rows), LABELS), dtype=np.int64)
    scores[:, label] = 1
    return scores


def run(batcher: Batcher, passes: int = 10_000) -> list[Ticket]:
    """Run passes in which every draw agrees until none is planned; return the order of leaving."""
    left = []
    for _ in range(passes):
        planned = batcher.plan(0.0)
        if planned is None:
            return left
        left += [one for one in batcher.record(planned, votes(planned)) if one.done]
    raise AssertionError("the batcher never ran dry")


def test_an_empty_batcher_plans_nothing() -> None:
    assert Batcher(64).plan(0.0) is None


def test_pictures_share_a_pass_and_leave_when_answered() -> None:
    batcher = Batcher(256)
    for number in range(3):
        batcher.admit(ticket(number, max_draws=100))
    planned = batcher.plan(0.0)
    assert planned is not None
    assert {one.id for one in planned.tickets} == {0, 1, 2}
    assert len(planned.rows) == 256
    done = set(batcher.record(planned, votes(planned)))
    # A pass of 256 slots serves each look of 64, and hands out the rest as further draws.
    assert sum(one.inquiry.total.draws for one in done) == 256
    assert {one.id for one in run(batcher)} | {one.id for one in done if one.done} == {0, 1, 2}
    assert len(batcher) == 0


def test_slots_left_over_go_to_pictures_in_flight_before_padding() -> None:
    batcher = Batcher(256)
    batcher.admit(ticket(1, max_draws=1000))
    planned = batcher.plan(0.0)
    assert planned is not None
    assert planned.filled == 256
    batcher = Batcher(256)
    batcher.admit(ticket(1, max_draws=100))
    planned = batcher.plan(0.0)
    assert planned is not None
    assert planned.filled == 100
    assert len(planned.rows) == 256


@pytest.mark.parametrize("high", [False, True])
@pytest.mark.parametrize("long", [1, 8, 40])
def test_long_pictures_do_not_delay_a_short_one(long: int, high: bool) -> None:
    batcher = Batcher(64)
    for number in range(long):
        batcher.admit(ticket(number, max_draws=100_000))
    for _ in range(10 * long):
        planned = batcher.plan(0.0)
        assert planned is not None
        list(batcher.record(planned, votes(planned)))
    passes = []
    for number in range(1000, 1050):
        short = ticket(number, max_draws=96, high=high)
        batcher.admit(short)
        passes.append(0)
        while not short.done:
            planned = batcher.plan(0.0)
            assert planned is not None
            list(batcher.record(planned, votes(planned)))
            passes[-1] += 1
    assert max(passes) <= 3  # 96 draws at 64 a pass; the long ones are never starved


def test_high_priority_does_not_wait_for_earlier_pictures() -> None:
    batcher = Batcher(64)
    for number in range(40):
        batcher.admit(ticket(number, max_draws=1000))
    urgent = ticket(99, max_draws=96, high=True)
    batcher.admit(urgent)
    for _ in range(3):
        planned = batcher.plan(0.0)
        assert planned is not None
        list(batcher.record(planned, votes(planned)))
    assert urgent.done


def passes_to(batcher: Batcher, ticket: Ticket) -> int:
    """Return after how many passes from now a picture is answered."""
    for number in range(1, 1000):
        planned = batcher.plan(0.0)
        assert planned is not None
        list(batcher.record(planned, votes(planned)))
        if ticket.done:
            return number
    raise AssertionError("it is never answered")


@pytest.mark.parametrize(
    ("high", "most"),
    [(False, 3), (True, 3)],  # 96 draws at half of 64 a pass, whatever the priority of the other
)
@pytest.mark.parametrize("draws", [64, 1000, 100_000])
def test_a_key_with_many_pictures_leaves_others_their_share(
    draws: int, high: bool, most: int
) -> None:
    batcher = Batcher(64)
    for number in range(200):
        batcher.admit(ticket(number, max_draws=draws, high=high, owner=1))
    for number in range(1000, 1010):
        modest = ticket(number, max_draws=96, owner=2)
        batcher.admit(modest)
        assert passes_to(batcher, modest) <= most


@pytest.mark.parametrize(
    ("high", "normal", "shares"),
    [
        (1, 1, (32, 32)),  # the others have half
        (1, 2, (32, 16)),
        (1, 3, (30, 10)),  # three times as much; a share is 10 2/3 slots
        (1, 9, (16, 5)),
        (3, 1, (16, 16)),  # never less than an equal share
        (2, 0, (32, 0)),
    ],
)
def test_high_priority_takes_no_more_than_half_of_a_pass_from_the_others(
    high: int, normal: int, shares: tuple[int, int]
) -> None:
    batcher = Batcher(64)
    for number in range(high + normal):
        batcher.admit(ticket(number, max_draws=100_000, high=number < high, owner=number + 1))
    planned = batcher.plan(0.0)
    assert planned is not None
    counts = dict(zip([one.id for one in planned.tickets], planned.counts, strict=True))
    for number in range(high + normal):
        assert counts[number] >= shares[number >= high]


def test_slots_that_one_does_not_need_go_to_the_others() -> None:
    batcher = Batcher(256)
    batcher.admit(ticket(0, max_draws=64, owner=1))
    batcher.admit(ticket(1, max_draws=10_000, owner=2))
    planned = batcher.plan(0.0)
    assert planned is not None
    assert dict(zip([one.id for one in planned.tickets], planned.counts, strict=True)) == {
        0: 64,
        1: 192,
    }


def test_with_more_callers_than_slots_each_gets_its_turn() -> None:
    batcher = Batcher(8)
    for number in range(20):
        batcher.admit(ticket(number, max_draws=1000, owner=number))
    served = set()
    for _ in range(3):
        planned = batcher.plan(0.0)
        assert planned is not None
        assert planned.filled == 8
        list(batcher.record(planned, votes(planned)))
        served |= {one.id for one in planned.tickets}
    assert served == set(range(20))


def test_a_stream_of_short_pictures_does_not_starve_a_long_one() -> None:
    batcher = Batcher(64)
    long = ticket(0, max_draws=3000)
    batcher.admit(long)
    for number in range(1, 2000):
        batcher.admit(ticket(number, max_draws=64))
        planned = batcher.plan(0.0)
        assert planned is not None
        list(batcher.record(planned, votes(planned)))
        if long.done:
            return
    raise AssertionError(f"the long picture has had {long.issued} of 3,000 draws")


def test_high_priority_goes_first() -> None:
    batcher = Batcher(64)
    for number in range(8):
        batcher.admit(ticket(number, max_draws=512))
    batcher.admit(ticket(99, max_draws=128, high=True))
    order = [one.id for one in run(batcher)]
    assert order[0] == 99


def test_a_picture_that_must_be_alone_takes_turns_with_the_others() -> None:
    batcher = Batcher(64)
    for number in range(4):
        batcher.admit(ticket(number, max_draws=640))
    batcher.admit(Ticket(9, NOTHING, ticket(9).inquiry, 1e9, alone=2))
    passes = []
    for _ in range(12):
        planned = batcher.plan(0.0)
        assert planned is not None
        passes.append([one.id for one in planned.tickets])
        list(batcher.record(planned, votes(planned)))
    own = [number for number, ids in enumerate(passes) if 9 in ids]
    assert [passes[number] for number in own[:2]] == [[9], [9]]
    assert own[0] <= 4
    assert own[1] - own[0] > 1, "the others have not waited until its end"
    assert {len(passes[number]) for number in own[2:]} != {1}


def test_pictures_that_are_withdrawn_begin_anew() -> None:
    batcher = Batcher(64)
    first = ticket(1)
    batcher.admit(first)
    planned = batcher.plan(3.0)
    assert planned is not None
    list(batcher.record(planned, votes(planned)))
    [anew] = batcher.withdraw()
    assert len(batcher) == 0
    assert (anew.issued, anew.inquiry.total.draws, anew.inquiry.look) == (0, 0, 0)
    assert anew.inquiry.question == replace(first.inquiry.question, restarts=1)
    assert anew.inquiry.terms == first.inquiry.terms
    assert (anew.id, anew.started, anew.features) == (1, 3.0, first.features)
    batcher.admit(anew)
    list(batcher.record(planned, votes(planned)))
    assert anew.inquiry.total.draws == 0, "the pass was for the picture's former run"


def test_a_cancelled_picture_has_no_slot_in_the_next_pass() -> None:
    batcher = Batcher(64)
    first, second = ticket(1), ticket(2)
    batcher.admit(first)
    batcher.admit(second)
    planned = batcher.plan(0.0)
    assert planned is not None
    assert batcher.cancel(1)
    assert not batcher.cancel(1)
    list(batcher.record(planned, votes(planned)))
    assert first.inquiry.total.draws == 0
    planned = batcher.plan(0.0)
    assert planned is not None
    assert [one.id for one in planned.tickets] == [2]


def test_at_the_deadline_a_picture_leaves_with_what_it_has() -> None:
    batcher = Batcher(64)
    reached, unreached = ticket(1, deadline=5.0), ticket(2, deadline=5.0)
    batcher.admit(reached)
    for _ in range(3):
        planned = batcher.plan(0.0)
        assert planned is not None
        list(batcher.record(planned, votes(planned)))
    batcher.admit(unreached)
    assert batcher.expire(4.9) == []
    assert batcher.expire(5.0) == [reached, unreached]
    assert reached.inquiry.stopped == "deadline"
    assert reached.inquiry.look > 0
    assert reached.inquiry.size > 0
    assert unreached.inquiry.look == 0
    assert len(batcher) == 0


def test_the_same_ticket_is_not_admitted_twice() -> None:
    batcher = Batcher(64)
    batcher.admit(ticket(1))
    with pytest.raises(ValueError, match="already in flight"):
        batcher.admit(ticket(1))


@settings(max_examples=150, deadline=None)
@given(
    slots=st.sampled_from([32, 50, 256]),
    events=st.lists(
        st.tuples(
            st.sampled_from(["admit", "pass", "cancel", "expire"]),
            st.integers(64, 700),
            st.booleans(),
        ),
        max_size=60,
    ),
    seed=st.integers(0, 2**32 - 1),
)
def test_draws_are_neither_lost_nor_confused(
    slots: int, events: list[tuple[str, int, bool]], seed: int
) -> None:
    """Whatever happens in whatever order, each picture gets its own draws in order, each once."""
    rng = np.random.default_rng(seed)
    batcher = Batcher(slots)
    flying: dict[int, Ticket] = {}
    given_out: dict[int, list[int]] = {}
    now = 0.0
    for number, (event, amount, flag) in enumerate([*events, *[("pass", 0, False)] * 300]):
        if event == "admit":
            target = 0.3 if flag else None
            one = ticket(number, amount, target, deadline=now + amount, high=flag)
            batcher.admit(one)
            flying[number], given_out[number] = one, []
        elif event == "cancel" and flying:
            victim = sorted(flying)[amount % len(flying)]
            assert batcher.cancel(victim)
            del flying[victim]
        elif event == "expire":
            now += amount
            for one in batcher.expire(now):
                assert one.deadline <= now
                assert one.done
                del flying[one.id]
        elif event == "pass":
            planned = batcher.plan(now)
            assert (planned is None) == (not flying)
            if planned is None:
                continue
            assert len(planned.rows) == slots
            assert 0 < planned.filled <= slots
            scores = np.zeros((slots, LABELS), dtype=np.int64)
            drawn = rng.integers(LABELS, size=slots)
            scores[np.arange(slots), drawn] = 1
            start = 0
            for index, (one, count) in enumerate(zip(planned.tickets, planned.counts, strict=True)):
                assert one.id in flying
                assert (planned.rows[start : start + count] == index).all()
                given_out[one.id] += drawn[start : start + count].tolist()
                assert len(given_out[one.id]) <= one.inquiry.question.max_draws
                start += count
            for one in batcher.record(planned, scores):
                if one.done:
                    del flying[one.id]
                used = one.inquiry.total
                mine = np.bincount(given_out[one.id][: used.draws], minlength=LABELS)
                assert (used.sums == mine).all()
        assert len(batcher) == len(flying)
    assert not flying, "every picture must leave in the end"


def vote_of(number: int, draw: int) -> int:
    """Return the vote of a picture's draw, whatever its pass; pictures differ in how sure h is."""
    drawn = zlib.crc32(f"{number} {draw}".encode())
    return 1 + drawn % (LABELS - 1) if drawn < (0.0, 0.04, 0.1, 0.25)[number % 4] * 2**32 else 0


def answer(batcher: Batcher, waiting: list[Ticket], flying: int, depth: int) -> tuple[int, int]:
    """Answer pictures, ``flying`` at a time, with up to ``depth`` passes in flight.

    Returns the slots of all passes, and those of draws that are in answers.
    """
    passes = used = 0
    flights: list[tuple[Pass, np.ndarray]] = []
    while waiting or batcher or flights:
        while waiting and len(batcher) < flying:
            batcher.admit(waiting.pop(0))
        while len(flights) < depth and (planned := batcher.plan(0.0)):
            drawn = np.full(batcher.slots, NO_VOTE, np.int16)
            ends = np.cumsum(planned.counts)
            for one, end, count in zip(planned.tickets, ends, planned.counts, strict=True):
                first = one.issued - count
                drawn[end - count : end] = [vote_of(one.id, first + i) for i in range(count)]
            flights.append((planned, drawn))
        passes += 1
        used += sum(one.inquiry.draws for one in batcher.record(*flights.pop(0)) if one.done)
    return passes * batcher.slots, used


@pytest.mark.parametrize("slots", [128, 256])
def test_planning_ahead_wastes_no_slots_and_changes_no_answer(slots: int) -> None:
    totals = {}
    answers = {}
    for depth in (1, 2, 3):
        made = used = 0
        for flying in (1, 4, 16, 64):
            asked = [ticket(number, target=0.25) for number in range(max(24, 2 * flying))]
            found = answer(Batcher(slots), asked.copy(), flying, depth)
            made, used = made + found[0], used + found[1]
            answers[depth, flying] = [
                (one.inquiry.stopped, one.inquiry.total.sums.tolist()) for one in asked
            ]
            assert answers[depth, flying] == answers[1, flying]
        totals[depth] = used / made
    assert totals[2] >= 0.99 * totals[1]


def test_one_picture_is_not_planned_ahead_of_its_own_votes() -> None:
    batcher = Batcher(64)
    batcher.admit(ticket(1, target=0.25))
    assert batcher.plan(0.0) is not None
    assert batcher.plan(0.0) is None
    for number in range(2, 6):
        batcher.admit(ticket(number, target=0.25))
    planned = batcher.plan(0.0)
    assert planned is not None
    assert planned.tickets[0].id == 2, "before draws of the first that may be in vain"


def test_draws_that_are_made_in_any_case_are_planned_ahead() -> None:
    batcher = Batcher(64)
    batcher.admit(ticket(1, max_draws=200))
    planned = [batcher.plan(0.0) for _ in range(4)]
    assert [one and one.filled for one in planned] == [64, 64, 64, None]


def test_of_a_picture_that_others_help_with_draws_are_left_for_them() -> None:
    batcher = Batcher(64)
    batcher.admit(replace(ticket(1, max_draws=128), shared=True))
    assert batcher.plan(0.0) is not None
    assert batcher.plan(0.0) is None
    [one] = batcher.tickets
    assert batcher.lend(one, "helper") == 64


def test_a_pass_for_a_picture_alone_is_announced() -> None:
    batcher = Batcher(64)
    batcher.admit(Ticket(9, NOTHING, ticket(9).inquiry, 1e9, alone=1))
    assert batcher.next_is_alone
    batcher.admit(ticket(1))
    for _ in range(3):
        assert not batcher.next_is_alone
        planned = batcher.plan(0.0)
        assert planned is not None
        list(batcher.record(planned, votes(planned)))
    assert batcher.next_is_alone


def test_draws_count_in_the_order_of_issue_whoever_makes_them_and_whenever_they_come() -> None:
    """Two helpers and this worker make draws of one picture, and hand them in in any order."""
    rng = np.random.default_rng(5)
    for _ in range(50):
        batcher, lent = Batcher(16), ticket(0, max_draws=int(rng.integers(100, 400)))
        batcher.admit(lent)
        other = ticket(1, max_draws=100)
        batcher.admit(other)
        alone = Inquiry(lent.inquiry.question, TERMS, LABELS, "votes")
        issued: list[np.ndarray] = []
        waiting: dict[str, list[np.ndarray]] = {"": [], "worker1": [], "worker2": []}
        passes: list[tuple[Pass, np.ndarray]] = []
        while not lent.done:
            who = str(rng.choice(["plan", "record", "worker1", "worker2", "come1", "come2"]))
            if who == "plan" and (planned := batcher.plan(0.0)):
                drawn = rng.integers(0, LABELS, 16)
                passes.append((planned, drawn))
                start = 0
                for one, count in zip(planned.tickets, planned.counts, strict=True):
                    if one is lent:
                        issued.append(drawn[start : start + count])
                    start += count
            elif who == "record" and passes:
                list(batcher.record(*passes.pop(0)))
            elif who.startswith("worker") and (count := batcher.lend(lent, who)):
                drawn = rng.integers(0, LABELS, count)
                issued.append(drawn)
                waiting[who].append(drawn)
            elif who.startswith("come") and waiting[helper := f"worker{who[-1]}"]:
                assert batcher.lent(lent, helper) == len(waiting[helper])
                list(batcher.deliver(lent, helper, waiting[helper].pop(0)))
            taken = np.concatenate([np.zeros(0, np.int64), *issued])[: lent.inquiry.draws]
            counts = np.bincount(taken, minlength=LABELS)
            assert np.array_equal(lent.inquiry.total.sums, counts), "a prefix of what was issued"
        alone.add(np.concatenate(issued))
        assert np.array_equal(alone.total.sums, lent.inquiry.total.sums)
        assert lent.inquiry.draws == lent.inquiry.question.max_draws


def test_a_helper_is_given_no_more_draws_than_there_may_be() -> None:
    batcher, lent = Batcher(64), ticket(0, max_draws=100)
    batcher.admit(lent)
    planned = batcher.plan(0.0)
    assert planned is not None
    assert [batcher.lend(lent, "worker1") for _ in range(2)] == [36, 0]
    with pytest.raises(ValueError, match="made 35 draws, not 36"):
        list(batcher.deliver(lent, "worker1", np.zeros(35, np.int16)))


def test_draws_that_have_numbers_are_made_in_their_order_and_never_lent() -> None:
    question = Question(0.9, 64, None, "l1")
    orders = iter([np.arange(255)[::-1], np.arange(255)])
    inquiry = SplitInquiry(
        question, SplitTerms("split", 0.5, 1.0, "l1", 4), 3, lambda draws: next(orders)
    )
    batcher = Batcher(100)
    batcher.admit(Ticket(1, Features(np.zeros(4, np.int32), on_grid=True), inquiry, 1e9))
    (mine,) = batcher.tickets
    with pytest.raises(ValueError, match="numbers"):
        batcher.lend(mine, "one")
    planned = [batcher.plan(0.0) for _ in range(2)]
    numbers = [one.features[0].numbers for one in planned if one]
    made = [one.tolist() for one in numbers if one is not None]
    assert made == [list(range(254, 154, -1)), list(range(154, 54, -1))]
    (again,) = batcher.withdraw()
    batcher.admit(again)
    fresh = batcher.plan(0.0)
    assert fresh
    assert fresh.features[0].numbers is not None
    assert fresh.features[0].numbers.tolist() == list(range(100))


def test_a_picture_that_begins_again_forgets_what_was_lent() -> None:
    batcher, lent = Batcher(64), ticket(0)
    batcher.admit(lent)
    batcher.lend(lent, "worker1")
    [again] = batcher.withdraw()
    batcher.admit(again)
    assert batcher.find(0) is again
    assert (batcher.lent(again, "worker1"), again.issued) == (0, 0)
