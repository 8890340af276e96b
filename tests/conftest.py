"""What every test starts from."""

import os
import shutil

# One thread for each process: on few cores more of them only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Compiling takes the cores for a while at each start of a service; one test asks for it.
os.environ.setdefault("PIXELDP_COMPILE", "false")

# PyTorch compiles networks with the system's C++ compiler, if it has one.
HAS_COMPILER = any(shutil.which(name) for name in ("g++", "clang++", "c++"))
