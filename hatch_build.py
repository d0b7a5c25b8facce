"""Compiles the fast lane (src/busyhour/fastlane) when busyhour is installed or packed, where that can be done.

python hatch_build.py      compiles it alone, in place
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

MODULE = "busyhour.fastlane._compiled"
SOURCE = Path("src/busyhour/fastlane/_compiled.pyx")


class FastLane(BuildHookInterface[Any]):
    """Without a C compiler busyhour is installed without it, and says so: everything works, with fewer calls a core."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        try:
            compiled = compile_lane(Path(self.root))
        except KeyboardInterrupt:
            raise
        except BaseException as problem:  # compilers fail in many ways, one of them is SystemExit
            self.app.display_warning(f"The fast lane is not compiled, a core will carry fewer calls: {problem}")
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        build_data["artifacts"].append(compiled.as_posix())


def compile_lane(root: Path) -> Path:
    """In place. Raises whatever the compilers raise."""
    from Cython.Build import cythonize
    from setuptools import Distribution, Extension
    from setuptools.command.build_ext import build_ext

    for stale in (root / SOURCE).parent.glob("_compiled.*.so"):
        stale.unlink()  # rather none than one of another source
    with TemporaryDirectory() as work:
        macros = [("BUSYHOUR_PICOWS", f'"{version("picows")}"')]
        extension = Extension(MODULE, [str(root / SOURCE)], define_macros=macros, extra_compile_args=["-O3"])
        modules = cythonize([extension], build_dir=work, quiet=True, force=True)
        command = build_ext(Distribution({"ext_modules": modules}))
        command.build_lib, command.build_temp = str(root / "src"), work
        command.ensure_finalized()
        command.run()
        return Path(command.get_ext_fullpath(MODULE)).relative_to(root)


if __name__ == "__main__":
    sys.stdout.write(f"{compile_lane(Path(__file__).parent)}\n")
