"""A notebook opened alone, as in Colab: its set-up cell gets the package and changes nothing that was there.

With ``GRPO_TEACH_COLAB=1``, which ``make test-colab`` sets, every chapter runs whole from a folder that holds the
notebook and the wheel alone, in an environment that lacks the packages that Colab lacks.
"""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import nbformat
import pytest
import yaml

import grpo_teach

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
ADDRESS = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
SETUP = nbformat.read(NOTEBOOKS[0], as_version=4).cells[0].source
ON_PYPI = f"grpo-teach=={grpo_teach.__version__}"
ARCHIVE = f"{ADDRESS}/archive/refs/tags/v{grpo_teach.__version__}.zip"
WHEEL = f"grpo_teach-{grpo_teach.__version__}-py3-none-any.whl"


def surroundings(**more: str) -> dict[str, str]:
    """This process's environment without what would show the notebook the checkout, or pytest this session."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYTEST"))}
    return kept | {"GRPO_TEACH_PROGRESS": os.devnull} | more


def advises(text: str) -> bool:
    """Whether it says in one sentence what to do, and shows nothing of pip's or Python's own."""
    (sentence,) = [line for line in text.splitlines() if "make wheel" in line]
    assert ARCHIVE in sentence and "dist/" in sentence and "upload" in sentence and sentence.endswith(".")
    return not re.search(r"Traceback|CalledProcessError|returned non-zero|exit (status|code)|ERROR", text)


# Where the cell looks, with a pip that only notes what it is asked for ---------------------------------------------

FAKE_PIP = """
import os, sys
with open(os.environ["ASKED"], "a") as file:
    print(sys.argv[-1], file=file)
sys.exit(0 if sys.argv[-1] in os.environ["THERE"].split() else "ERROR: Traceback, exit code: 128")
"""


@pytest.fixture
def look(tmp_path):
    """``look(files, there)`` runs the cell among those files: what pip was asked for, and what was printed."""

    def run(files: list[str], there: str = "", cwd: str = "alone"):
        for name in (f"{cwd}/chapter.ipynb", "path/pip.py", *files):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        (tmp_path / "path" / "pip.py").write_text(FAKE_PIP)
        asked = tmp_path / "asked"
        asked.write_text("")
        told = surroundings(PYTHONPATH=str(tmp_path / "path"), ASKED=str(asked), THERE=there)
        # -S: without site-packages, where the package is installed for these tests
        command = [sys.executable, "-S", "-c", SETUP + "\nprint(sys.path)"]
        done = subprocess.run(command, cwd=tmp_path / cwd, env=told, capture_output=True, text=True)
        return asked.read_text().split(), done

    return run


def test_what_is_installed_is_used_as_it_is(look):
    asked, done = look(["path/grpo_teach/__init__.py", f"alone/{WHEEL}"])
    assert done.returncode == 0 and asked == []


def test_else_the_checkout_around_the_notebook(look, tmp_path):
    asked, done = look(["clone/grpo_teach/__init__.py", f"clone/notebooks/{WHEEL}"], cwd="clone/notebooks")
    assert asked == [] and str(tmp_path / "clone") in done.stdout


def test_else_the_wheel_beside_it(look):
    asked, done = look([f"alone/{WHEEL}", "alone/zebra-1.0-py3-none-any.whl"], there=f"{WHEEL} {ON_PYPI}")
    assert done.returncode == 0 and asked == [WHEEL]


def test_else_the_release_on_pypi_and_then_the_tagged_archive(look):
    asked, done = look([], there=f"{ON_PYPI} {ARCHIVE}")
    assert done.returncode == 0 and asked == [ON_PYPI]
    asked, done = look([], there=ARCHIVE)
    assert done.returncode == 0 and asked == [ON_PYPI, ARCHIVE] and done.stderr == ""


def test_else_it_says_what_to_do(look):
    asked, done = look([])
    assert asked == [ON_PYPI, ARCHIVE] and done.returncode == 1
    assert advises(done.stdout + done.stderr) and len(done.stderr.splitlines()) == 1


def test_a_wheel_that_pip_refuses_is_not_passed_over_in_silence(look):
    asked, done = look([f"alone/{WHEEL}"])
    assert asked == [WHEEL, ON_PYPI, ARCHIVE] and done.stdout.startswith("ERROR: ") and "make wheel" in done.stderr


# With the true pip and the true wheel ------------------------------------------------------------------------------

LACKING = {"bitsandbytes", "math-verify", "reasoning-gym"}  # in tests/colab.txt beside what Colab has
LACKING |= {"pydantic-monty", "pydantic-monty-client", "pydantic-monty-runtime"}
LEDGER = {"07", "08"}  # chapters that print predicted bytes, of which some depend on the version of transformers


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """What ``make wheel`` builds, in a copy in which an earlier build has left a module that is no more."""
    copy = tmp_path_factory.mktemp("clone")
    shutil.copytree(ROOT / "grpo_teach", copy / "grpo_teach", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Makefile", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    (copy / "build" / "lib" / "grpo_teach").mkdir(parents=True)
    (copy / "build" / "lib" / "grpo_teach" / "removed.py").touch()
    if not shutil.which("make"):
        pytest.skip("make is not installed")
    command = ["make", "-o", ".venv/bin/python", f"BIN={Path(sys.executable).parent}", "wheel"]
    done = subprocess.run(command, cwd=copy, env=surroundings(), capture_output=True, text=True)
    if "No matching distribution found for setuptools" in done.stderr:
        pytest.skip("PyPI cannot be reached, and without setuptools no wheel is built")
    assert done.returncode == 0, done.stderr
    (built,) = (copy / "dist").iterdir()
    assert built.name == WHEEL and "grpo_teach/removed.py" not in zipfile.ZipFile(built).namelist()
    return built


def colab(folder: Path, without: set[str]) -> str:
    """A fresh environment that sees the packages of this one, outside itself, but for those; its interpreter."""
    venv.create(folder / "venv", symlinks=os.name != "nt")  # without a pip: that too it finds among what it sees
    python = folder / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    found = {Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")}
    hidden = {"__pycache__"}
    for package in importlib.metadata.distributions(path=[str(path) for path in found]):
        if package.name.lower().replace("_", "-") in without | {"grpo-teach"}:
            hidden |= {file.parts[0] for file in package.files}
    seen = folder / "packages"
    seen.mkdir()
    for path in (path for site in found for path in site.iterdir() if path.name not in hidden):
        if path.suffix != ".pth":
            (seen / path.name).symlink_to(path)
    code = "import sysconfig; print(sysconfig.get_path('purelib'), end='')"
    own = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True, env=surroundings()).stdout
    (Path(own) / "seen.pth").write_text(str(seen))
    return str(python)


def packages(python: str) -> dict[str, str]:
    command = [python, "-m", "pip", "list", "--format", "json", "--disable-pip-version-check"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=surroundings())
    return {package["name"]: package["version"] for package in json.loads(done.stdout)}


def run_notebook(python: str, path: Path) -> subprocess.CompletedProcess:
    nbval = ["--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=600"]
    command = [python, "-m", "pytest", "-q", *nbval, path.name]
    told = surroundings(PIP_DISABLE_PIP_VERSION_CHECK="1")
    return subprocess.run(command, cwd=path.parent, env=told, capture_output=True, text=True)


@pytest.mark.slow
def test_a_notebook_and_a_wheel_in_a_folder_are_enough(tmp_path, wheel):
    notebook = nbformat.read(NOTEBOOKS[0], as_version=4)
    code = [i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    notebook.cells = notebook.cells[: code[2] + 1]  # set-up, the package's import and base, its first answers
    python = colab(tmp_path, without=set())
    folder = tmp_path / "alone"
    folder.mkdir()
    nbformat.write(notebook, folder / "chapter.ipynb")
    before = packages(python)
    assert "torch" in before and "grpo-teach" not in before

    # Nothing can be reached: no index, and a proxy where none listens.
    told = surroundings(PIP_CONFIG_FILE=os.devnull, PIP_NO_INDEX="1", PIP_FIND_LINKS="", PIP_RETRIES="0")
    told["PIP_PROXY"] = "http://127.0.0.1:9"
    cell = f"import IPython; IPython.InteractiveShell().run_cell({SETUP!r})"
    done = subprocess.run([python, "-W", "ignore", "-c", cell], cwd=folder, env=told, capture_output=True, text=True)
    assert advises(done.stdout + done.stderr), done.stdout + done.stderr

    shutil.copy(wheel, folder)
    done = run_notebook(python, folder / "chapter.ipynb")
    assert done.returncode == 0 and "3 passed" in done.stdout, done.stdout + done.stderr
    assert packages(python) == before | {"grpo-teach": grpo_teach.__version__}


@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("GRPO_TEACH_COLAB") != "1", reason="make test-colab runs it")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_chapter_runs_whole_and_changes_no_package_of_colabs(path, tmp_path, wheel):
    python = colab(tmp_path, without=LACKING)
    before = packages(python)
    assert before.keys().isdisjoint(LACKING)
    folder = tmp_path / "alone"
    folder.mkdir()
    shutil.copy(wheel, folder)
    notebook = nbformat.read(path, as_version=4)
    if path.stem[:2] in LEDGER:
        for cell in notebook.cells:
            cell.metadata["tags"] = [tag for tag in cell.metadata.get("tags", []) if tag != "nbval-check-output"]
    nbformat.write(notebook, folder / path.name)
    done = run_notebook(python, folder / path.name)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    after = packages(python)
    assert "grpo-teach" in after and {name: after.get(name) for name in before} == before
