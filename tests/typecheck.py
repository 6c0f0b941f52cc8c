"""Type-check what a user installs: mypy at the root would see the core alone, since setup.cfg maps the packages."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        source, staged = Path(folder) / "source", Path(folder) / "staged"
        shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "*.egg-info", "*.zarr"))
        install = ["pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", staged, source]
        subprocess.run([sys.executable, "-m", *install], check=True)
        command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "-p", "gradvis"]
        return subprocess.run(command, cwd=staged, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
