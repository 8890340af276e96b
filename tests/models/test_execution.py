"""Ways of running h, as text."""

import pytest

from models.execution import Execution, parse_execution, parse_pin

DIGEST = f"sha256:{'a0' * 32}"


@pytest.mark.parametrize(
    "way",
    [
        Execution("pytorch", "float32", 128, False),
        Execution("pytorch", "bfloat16", 1, True),
        Execution("openvino", "int8", 99999, False),
        Execution("openvino", "bfloat16", 128, False),
    ],
)
def test_names_are_read_back(way: Execution) -> None:
    assert parse_execution(way.name) == way
    assert parse_pin(f"{DIGEST}/{way.name}") == (DIGEST, way)


def test_the_end_may_be_left_out_if_a_pass_size_is_known() -> None:
    assert parse_execution("openvino/int8", 64) == Execution("openvino", "int8", 64, False)
    assert parse_execution(" pytorch / float32 / 32", 64).name == "pytorch/float32/32/false"
    assert parse_execution("pytorch/bfloat16/32/true", 64).compiled


@pytest.mark.parametrize(
    "text",
    [
        "",
        "pytorch",
        "pytorch/float16",
        "onnx/float32",
        "pytorch/int8",
        "openvino/bfloat16/64/true",
        "openvino/int8/64/true",
        "pytorch/float32/0",
        "pytorch/float32/-1",
        "pytorch/float32/100000",
        "pytorch/float32/64/yes",
        "pytorch/float32/64/true/1",
    ],
)
def test_malformed_names_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^$|does not run networks in"):
        parse_execution(text, 64)
    with pytest.raises(ValueError, match="is no h"):
        parse_pin(f"{DIGEST}/{text}")


@pytest.mark.parametrize(
    "text",
    [
        f"{DIGEST}/pytorch/float32",
        f"{DIGEST}/pytorch/float32/64",
        "sha256:a0/pytorch/float32/64/false",
        "pytorch/float32/64/false",
    ],
)
def test_a_pin_says_everything(text: str) -> None:
    with pytest.raises(ValueError, match="is no h"):
        parse_pin(text)
