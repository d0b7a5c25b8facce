"""Compiles the fast lane (src/busyhour/fastlane) when busyhour is installed or packed, where that can be done.

python hatch_build.py [SOURCE]: compiles it alone, in place, or another source that uses picows.
"""

from __future__ import annotations

import shutil
import sys
import sysconfig
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).resolve().parent
LANE = ROOT / "src/busyhour/fastlane/_compiled.pyx"
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")


class FastLane(BuildHookInterface[Any]):
    """Without a C compiler busyhour is installed without it, and says so: everything works, with fewer calls a core.

    In place for an editable installation, else in a folder of its own: an editable one of the same tree keeps its own.
    """

    _folder = ""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        self._folder = "" if version == "editable" else mkdtemp()
        try:
            made = compiled(LANE, Path(self._folder) if self._folder else LANE.parent)
        except KeyboardInterrupt:
            raise
        except BaseException as problem:  # compilers fail in many ways, one of them is SystemExit
            self.app.display_warning(f"The fast lane is not compiled, a core will carry fewer calls: {problem}")
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        if self._folder:
            build_data["force_include"][str(made)] = f"busyhour/fastlane/{made.name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if self._folder:
            shutil.rmtree(self._folder)


def compiled(source: Path, folder: Path) -> Path:
    """The module of a source, put into a folder. Raises whatever the compilers raise."""
    made = folder / f"{source.stem}{SUFFIX}"
    made.unlink(missing_ok=True)  # rather none than one of another source

    from Cython.Build import cythonize
    from setuptools import Distribution, Extension
    from setuptools.command.build_ext import build_ext

    top = ROOT / "src" if source.is_relative_to(ROOT / "src") else source.parent
    name = ".".join(source.relative_to(top).with_suffix("").parts)
    read = b"".join(path.read_bytes() for path in (source, *sorted(source.parent.glob("*.pxi"))))
    facts = {"PICOWS": metadata.version("picows"), "SOURCE": sha256(read).hexdigest()}
    with TemporaryDirectory() as work:
        macros = [(f"BUSYHOUR_{fact}", f'"{value}"') for fact, value in facts.items()]
        extension = Extension(name, [str(source)], define_macros=macros, extra_compile_args=["-O3", "-g0"])
        command = build_ext(
            Distribution({"ext_modules": cythonize([extension], build_dir=work, quiet=True, force=True)})
        )
        command.build_lib = command.build_temp = work
        command.ensure_finalized()
        command.run()
        shutil.move(command.get_ext_fullpath(name), made)
    return made


if __name__ == "__main__":
    wanted = Path(sys.argv[1]).resolve() if sys.argv[1:] else LANE
    sys.stdout.write(f"{compiled(wanted, wanted.parent)}\n")
