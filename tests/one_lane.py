"""A CUDA source compiled as C++, where one lane does the work of all."""

import ctypes
import shutil
import subprocess

import pytest
import torch

from fewshot_cli.kernels import nvrtc


def compiled(source, folder):
    """The source's library for float32 and float64 problems; skips without a C++ compiler."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler on this machine")
    libraries = {}
    for dtype, name in ((torch.float32, "float"), (torch.float64, "double")):
        path = folder / f"{name}.so"
        options = f"-O1 -Wall -Wextra -Werror -x c++ -std=c++17 -DCOST={name} -shared -fPIC".split()
        subprocess.run([compiler, *options, f"-I{nvrtc.LANES.parent}", "-o", path, source], check=True)
        libraries[dtype] = ctypes.CDLL(str(path))
    return libraries
