"""How PixelDP models are served."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path


def _pin(name: str) -> None:
    """Make ``import NAME`` mean the package beside this one, whatever else has that name.

    Many users have their own folder ``models``, and put it on the path to bring a Python function.

    Raises:
        ImportError: another package of that name has already been imported.
    """
    file = Path(__file__).parents[1] / name / "__init__.py"
    present = sys.modules.get(name)
    if present is None:
        spec = spec_from_file_location(name, file, submodule_search_locations=[str(file.parent)])
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[name] = module_from_spec(spec)
        spec.loader.exec_module(module)
    elif Path(present.__file__ or "").resolve() != file.resolve():
        raise ImportError(f"{name} is the package of {present.__file__}, not PixelDP's {file}")


_pin("models")
