"""What the experiments share with the other tests of a running service."""

from tests.e2e.conftest import seven

__all__ = ["seven"]
