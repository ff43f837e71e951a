# Use the package that is installed, else the checkout this notebook lies in, else install it.
import importlib.util
import pathlib
import sys

if importlib.util.find_spec("grpo_teach") is None:
    checkout = next((p for p in pathlib.Path.cwd().resolve().parents if (p / "grpo_teach").is_dir()), None)
    if checkout:
        sys.path.insert(0, str(checkout))
    else:  # Colab: the package asks for ranges that leave the torch already there alone
        import subprocess

        subprocess.check_call([sys.executable, "-m", "pip", "install", "-q", "git+REPOSITORY"])
