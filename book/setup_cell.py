# Use the package that is installed, else the checkout this notebook lies in, else install the release.
import importlib.util
import pathlib
import subprocess
import sys

if importlib.util.find_spec("grpo_teach") is None:
    checkout = next((p for p in pathlib.Path.cwd().resolve().parents if (p / "grpo_teach").is_dir()), None)
    if checkout:
        sys.path.insert(0, str(checkout))
    else:  # Colab: the package asks for ranges, so pip leaves the PyTorch that is already there alone
        install = [sys.executable, "-m", "pip", "install", "-qq"]
        wheels = [str(p) for folder in ("/content", ".") for p in sorted(pathlib.Path(folder).glob("grpo_teach-*.whl"))]
        archive = "REPOSITORY/archive/refs/tags/vVERSION.zip"
        for release in (*wheels[-1:], "grpo-teach==VERSION", archive):
            tried = subprocess.run([*install, release], capture_output=True, text=True)
            if tried.returncode == 0:
                break
            if release in wheels:
                print(tried.stderr)
        else:
            how = "run `make wheel` in a clone, upload the file in dist/ beside this notebook, and run this cell again"
            raise SystemExit(f"grpo-teach VERSION is neither on PyPI nor at {archive}: {how}.")
