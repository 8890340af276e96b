"""The option ``--device`` of every command that runs a network."""

from typing import Annotated

import typer

from service.system import devices

DeviceOption = Annotated[
    str | None,
    typer.Option("--device", help="cpu, cuda or cuda:N; by default CUDA if there is a GPU."),
]


def check_device(name: str | None) -> None:
    """Refuse a name that is no device, or certainly none here, before PyTorch is imported.

    Raises:
        ValueError: says what is expected, or why it cannot be used.
    """
    if name is None:
        return
    if not devices.is_device(name):
        raise ValueError(
            f"device {name!r} cannot be used: expected --device cpu, cuda or cuda:N, such as cuda:0"
        )
    if name != "cpu" and not devices.built_for_cuda():
        raise ValueError(
            f"device {name!r} cannot be used here (the installed PyTorch is built without CUDA); "
            "omit --device, or install a PyTorch with CUDA"
        )
