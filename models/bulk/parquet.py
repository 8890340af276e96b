"""Parquet files, by pyarrow, which is optional."""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from models.data.labelled import DataSetError

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile


def check_pyarrow() -> None:
    """Raise a ValueError that says what to do if there is no pyarrow."""
    if find_spec("pyarrow") is None:
        raise ValueError(
            "Parquet files are read and written by pyarrow, which is not installed: "
            f"{sys.executable} -m pip install 'pixeldp[bulk]'"
        )


def open_parquet(file: Path) -> "ParquetFile":
    """Open a file.

    Raises:
        ValueError: pyarrow is not installed.
        DataSetError: it is not a Parquet file.
        OSError: it cannot be read.
    """
    check_pyarrow()
    from pyarrow import ArrowInvalid
    from pyarrow.parquet import ParquetFile

    try:
        return ParquetFile(file)
    except ArrowInvalid as error:
        raise DataSetError(f"{file}: is not a Parquet file ({error})") from None
