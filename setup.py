"""Build the native module: pip drives CMake, CMake builds ollamapy._core."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


class CMakeBuild(build_ext):
    """Configure and build CMakeLists.txt, then put the module where setuptools expects it."""

    def build_extension(self, ext: Extension) -> None:
        compiler = (
            os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++") or shutil.which("c++")
        )
        if not compiler:
            raise SystemExit(
                "OllamaPy builds its engine from C++20 source and found no C++ compiler.\n"
                "Install g++ 11 or newer (Debian or Ubuntu: apt-get install g++; Fedora: dnf install gcc-c++) "
                "and run pip install again."
            )
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        build_dir = Path(os.environ.get("OLLAMAPY_BUILD_DIR", self.build_temp)).resolve()
        build_dir.mkdir(parents=True, exist_ok=True)
        configure = [
            "cmake", "-S", str(ROOT), "-B", str(build_dir),
            f"-DCMAKE_CXX_COMPILER={compiler}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={target.parent}",
            f"-DOLLAMAPY_SANITIZE={os.environ.get('OLLAMAPY_SANITIZE', 'OFF')}",
            f"-DOLLAMAPY_WERROR={os.environ.get('OLLAMAPY_WERROR', 'OFF')}",
        ]  # fmt: skip
        if shutil.which("ninja"):
            configure += ["-G", "Ninja"]
        jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL") or str(len(os.sched_getaffinity(0)))
        subprocess.run(configure, check=True)
        subprocess.run(["cmake", "--build", str(build_dir), "--parallel", jobs], check=True)
        if not target.exists():
            raise SystemExit(f"CMake finished but {target} is missing")


setup(ext_modules=[Extension("ollamapy._core", sources=[])], cmdclass={"build_ext": CMakeBuild})
