from hypothesis import given
from hypothesis import strategies as st

from service.cli.sizes import shown


@given(size=st.floats(1e-300, 1e300))
def test_what_is_read_is_never_above_the_size(size: float) -> None:
    assert size * (1 - 1.1e-3) <= float(shown(size)) <= size


def test_figures() -> None:
    figures = {0.0: "0", 0.3: "0.3", 0.6: "0.6", 0.734567: "0.7345", 1 / 255: "0.003921"}
    assert {size: shown(size) for size in figures} == figures
