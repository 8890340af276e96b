"""Messages survive any division of the stream."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from models.certification.answer import conclude
from models.certification.inquiry import Inquiry
from models.certification.question import Question
from models.certification.terms import Terms
from models.execution import Execution
from service.engine import messages


def admit(number: int) -> messages.Admit:
    return messages.Admit(
        id=number,
        model=0,
        width=3,
        height=2,
        channels=1,
        bits=8,
        confidence=0.999,
        max_draws=1000,
        target=None,
        norm="l2",
        scores=10,
        deadline=12.5,
        high=False,
        progress=True,
    )


@given(
    payloads=st.lists(st.binary(max_size=50), max_size=6),
    cuts=st.lists(st.integers(1, 40), min_size=1, max_size=20),
)
def test_messages_come_out_as_they_went_in(payloads: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(messages.encode(admit(i), payload) for i, payload in enumerate(payloads))
    decoder, found, start, step = messages.Decoder(), [], 0, 0
    while start < len(stream):
        end = start + cuts[step % len(cuts)]
        found += list(decoder.feed(stream[start:end]))
        start, step = end, step + 1
    assert found == [(admit(i), payload) for i, payload in enumerate(payloads)]


def test_a_conclusion_survives_the_wire_to_the_last_digit() -> None:
    inquiry = Inquiry(
        Question(0.999, 1000, 0.5, "l2"), Terms("gaussian", 0.5, 1.0, "l2", 784), 10, "votes"
    )
    scores = np.zeros((96, 10), dtype=np.int64)
    scores[:, 7] = 1
    inquiry.add(scores)
    message = messages.Answer(
        id=3,
        conclusion=conclude(inquiry, 10),
        execution=Execution("pytorch", "bfloat16", 256, False),
        queue_seconds=0.1,
        compute_seconds=1 / 3,
        looks=[(64, 1 / 7), (96, 1 / 3)],
    )
    [(received, payload)] = messages.Decoder().feed(messages.encode(message))
    assert isinstance(received, messages.SealedAnswer)
    assert received.open() == message
    assert payload == b""


def test_an_unknown_message_is_an_error() -> None:
    with pytest.raises(ValidationError):
        list(messages.Decoder().feed(b"\x10" + 16 * b"\0" + b'{"kind":"dance"}'))
