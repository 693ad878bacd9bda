"""The wheel carries ``configs/`` as ``resjax/configs/``; setup.cfg has everything else."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigurations(build_py):
    """Copies the configurations into the built package. An editable install reads those of the repository."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            folder = Path(self.build_lib, "resjax", "configs")
            self.mkpath(str(folder))
            for file in sorted(Path("configs").glob("*.py")):
                self.copy_file(str(file), str(folder / file.name))


setup(cmdclass={"build_py": BuildWithConfigurations})
