"""The order in which requests begin; no times."""

import asyncio
import itertools

from service.http.turns import IN_A_TURN, Turns

MANY = 20 * IN_A_TURN


def test_few_requests_begin_in_a_turn_of_the_loop_in_order_of_arrival() -> None:
    begun = list[int]()

    async def request(turns: Turns, number: int) -> None:
        await turns.begin()
        begun.append(number)

    async def main() -> list[int]:
        turns = Turns()
        tasks = [asyncio.create_task(request(turns, number)) for number in range(MANY)]
        sizes = [0]
        while len(begun) < MANY:
            await asyncio.sleep(0)
            sizes.append(len(begun))
        await asyncio.gather(*tasks)
        assert not turns._waiting
        return [after - before for before, after in itertools.pairwise(sizes)]

    steps = asyncio.run(main())
    assert begun == list(range(MANY))
    assert max(steps) <= IN_A_TURN


def test_a_single_request_begins_at_once() -> None:
    async def main() -> None:
        turns = Turns()
        for _ in range(MANY):
            waiting = turns.begin()
            try:
                waiting.send(None)
            except StopIteration:
                pass
            else:
                raise AssertionError("it waits for nobody")
            await asyncio.sleep(0)  # a turn
            await asyncio.sleep(0)

    asyncio.run(main())


def test_a_client_that_has_left_takes_no_turn() -> None:
    async def main() -> None:
        turns = Turns()
        tasks = [asyncio.create_task(turns.begin()) for _ in range(MANY)]
        await asyncio.sleep(0)
        for task in tasks[IN_A_TURN:-1]:
            task.cancel()
        await tasks[-1]
        assert not turns._waiting
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert [end is None for end in ended].count(True) == IN_A_TURN + 1

    asyncio.run(main())
