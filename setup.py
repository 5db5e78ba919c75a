"""Extension modules only; every other fact about the build lives in pyproject.toml."""

import os

from Cython.Build import cythonize
from Cython.Compiler import Options
from setuptools import Extension, setup

# Adds checks, line tracing and annotated HTML; never changes a result.
DEBUG = os.environ.get("BRIDGECORE_DEBUG") == "1"

# Finds errors of memory and undefined behaviour; needs the sanitizers' libraries preloaded (`make asan`).
SANITIZE = os.environ.get("BRIDGECORE_SANITIZE") == "1"
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize=alignment"] if SANITIZE else []

# A hit of the cache is inlined whole only if GCC may let a unit grow by that many percent (4 ns of 48).
OPTIMIZE = ["-O3", "--param=inline-unit-growth=300", "--param=max-inline-insns-single=1500"]

Options.warning_errors = True

setup(
    ext_modules=cythonize(
        [
            Extension(
                "bridgecore.*",
                sources=["bridgecore/*.pyx"],
                define_macros=[("CYTHON_TRACE_NOGIL", "1")] if DEBUG else [],
                extra_compile_args=[*(["-O0", "-g", "-UNDEBUG"] if DEBUG else OPTIMIZE), *SANITIZERS],
                extra_link_args=SANITIZERS,
            ),
        ],
        annotate=DEBUG,
        build_dir=None if DEBUG else "build",  # coverage needs the .c next to the .pyx
        compiler_directives={
            "language_level": 3,
            "auto_pickle": False,
            "binding": False,  # plain method descriptors cost 10 ns less a call
            "embedsignature": True,
            "embedsignature.format": "clinic",
            "autotestdict": False,
            "boundscheck": DEBUG,
            "wraparound": False,
            "initializedcheck": DEBUG,
            "cdivision": True,
            "linetrace": DEBUG,
        },
    )
)
