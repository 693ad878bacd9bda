"""resjax as it is installed elsewhere: from a wheel, in an environment and a folder without the repository.

The environment is new and nothing is downloaded: it finds the dependencies in the ``site-packages`` of the
environment that runs the tests, through a file ``dependencies.pth``. Python does not read the ``.pth`` files
of a folder that is named in this way. So an editable install of the repository there is not seen.
"""

import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
from script_helpers import REPOSITORY, environment

BUILD = "import sys; from setuptools import build_meta; build_meta.build_{}(sys.argv[1])"
NETWORK = """
import flax.linen as nn

from resjax import config as configs
from resjax.network import Network


class Stem(nn.Module):
    def __call__(self, x, *, train=False):
        return x


class Head(nn.Module):
    @nn.compact
    def __call__(self, x, *, train=False):
        return nn.Dense(10)(x.mean((1, 2)))


def network(*, image_shape, num_classes):
    return Network(stem=Stem(), stacks=(), head=Head())


def get_config(arg=""):
    return configs.default("mine:network")
"""


def outside():
    """The environment variables of a process that does not know the repository. Its programs run for longer
    than those of other tests, so they are compiled as for a user."""
    env = environment(PIP_NO_INDEX="1", XLA_FLAGS="")
    return {name: value for name, value in env.items() if name != "PYTHONPATH"}


def repository():
    """Its files that git knows, as paths from its root; all files of an unpacked sdist, which has no git."""
    tracked = ""
    if shutil.which("git") and (REPOSITORY / ".git").exists():
        command = ["git", "ls-files", "-z"]
        tracked = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True).stdout
    paths = tracked.strip("\0").split("\0") if tracked else files_of(REPOSITORY)
    return {path for path in paths if (REPOSITORY / path).is_file()}


def files_of(folder):
    paths = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    return {path.as_posix() for path in paths if path.suffix != ".pyc"}


def copy(paths, target):
    for path in paths:
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / path, target / path)
    return target


def build(kind, source, target):
    """The file of a wheel or an sdist, with the setuptools of this environment."""
    command = [sys.executable, "-c", BUILD.format(kind), str(target)]
    done = subprocess.run(command, cwd=source, env=outside(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (file,) = Path(target).iterdir()
    return file


def test_the_wheel_is_the_package_and_its_configurations(tmp_path):
    package = {path for path in repository() if path.startswith("resjax/")}
    own = {path for path in repository() if path.startswith("configs/")}
    assert {"resjax/py.typed", "resjax/report/report.css"} <= package and "configs/digits.py" in own
    needed = {"setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"}
    source = copy(package | own | needed, tmp_path / "source")
    with zipfile.ZipFile(build("wheel", source, tmp_path / "wheel")) as wheel:
        carried = {name for name in wheel.namelist() if ".dist-info/" not in name}
    # Everything is within resjax/: no package `configs` is beside it.
    assert carried == package | {f"resjax/{path}" for path in own}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The ``bin`` of a new environment in which resjax is installed: repository → sdist → wheel."""
    root = tmp_path_factory.mktemp("installed")
    source = copy(repository(), root / "repository")
    with tarfile.open(build("sdist", source, root / "sdist")) as sdist:
        sdist.extractall(root / "unpacked", filter="data")
    (unpacked,) = (root / "unpacked").iterdir()
    lost = repository() - files_of(unpacked)
    assert lost <= {".gitignore"}, "the sdist lacks files that its tests may need: see MANIFEST.in"
    wheel = build("wheel", unpacked, root / "wheel")
    subprocess.run([sys.executable, "-m", "venv", root / "env"], check=True, env=outside())
    binaries = Path(sysconfig.get_path("scripts", "venv", {"base": root / "env"}))
    install = [binaries / "python", "-m", "pip", "install", "--quiet", "--no-deps", wheel]
    subprocess.run(install, check=True, env=outside())
    packages = Path(sysconfig.get_path("purelib", "venv", {"base": root / "env"}))
    here = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (packages / "dependencies.pth").write_text("\n".join(here))
    return binaries


@pytest.mark.slow
def test_an_installed_resjax_needs_no_repository(installed, tmp_path):
    def run(command, *arguments):
        done = subprocess.run(
            [installed / command, *arguments], cwd=tmp_path, env=outside(), capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = Path(run("python", "-c", "import resjax; print(resjax.__file__)").strip())
    assert installed.parent in where.parents and "site-packages" in where.parts
    assert "\n  demo " in run("resjax") and "\n  demo " in run("python", "-m", "resjax")

    (tmp_path / "mine.py").write_text(NETWORK)
    assert "mine:network" in run("resjax", "describe", "--config=mine.py")
    shorter = ("--config.train.duration=2 steps", "--workdir=x")
    assert "done: x" in run("resjax", "train", "--config=digits:smoke", *shorter)

    said = run("python", "-m", "resjax.demo", "--smoke", "--workdir=demo")
    assert "[2/4] plain: digits_plain:smoke" in said
    assert "python -m resjax.play --workdir=demo/residual,demo/plain" in said
    assert (tmp_path / "demo/report/report.html").stat().st_size > 10_000
    left = {path.name for path in tmp_path.iterdir()} - {"__pycache__"}
    assert left == {"mine.py", "x", "demo"}


@pytest.mark.slow
def test_every_installed_configuration_loads(installed, tmp_path):
    """Also those that start from another one."""
    code = (
        "from resjax import config\n"
        "for name, path in config.files().items():\n"
        "    print(name, config.load_file(path, 'smoke').model.name)\n"
    )
    done = subprocess.run(
        [installed / "python", "-c", code], cwd=tmp_path, env=outside(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    loaded = [line.split()[0] for line in done.stdout.splitlines()]
    assert loaded == sorted(path.stem for path in (REPOSITORY / "configs").glob("*.py"))
