import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

from senna2 import compiled

FILES = {
    "senna2/__init__.py": "",
    "senna2/constants.py": "FACTOR = 2.0\n",
    "senna2/inner.py": "from senna2.compiled import njit\nfrom senna2.constants import FACTOR\n\n"
    "@njit()\ndef inner(x):\n    return FACTOR * x\n",
    "senna2/outer.py": "from senna2.compiled import njit\nfrom senna2.inner import (\n    inner,\n)\n\n"
    "@njit()\ndef outer(x):\n    return inner(x) + 1\n",
}
RUN = "from senna2.outer import outer; print(outer(3.0)); print(sum(outer.stats.cache_hits.values()))"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "senna2" / "compiled.py").write_text(Path(compiled.__file__).read_text())
    return tmp_path


def run(folder: Path) -> tuple[float, int]:
    said = subprocess.run([sys.executable, "-c", RUN], cwd=folder, capture_output=True, text=True, check=True,
                          env={"PYTHONPATH": str(folder), "PATH": ""}).stdout.split()  # fmt: skip
    return float(said[0]), int(said[1])


def test_code_is_kept_until_something_it_is_made_of_changes(package):
    assert run(package) == (7.0, 0)
    assert run(package) == (7.0, 1)
    (package / "senna2" / "constants.py").write_text("FACTOR = 5.0\n")  # two imports away from `outer`
    assert run(package) == (16.0, 0)
    assert run(package) == (16.0, 1)
    (package / "senna2" / "constants.py").write_text("FACTOR = 2.0\n")
    assert run(package) == (7.0, 1)  # that of the first run


def test_every_kernel_is_compiled_this_way():
    root = Path(compiled.__file__).parent
    kernels = [p for p in root.rglob("*.py") if "@njit(" in p.read_text()]
    assert len(kernels) > 10
    assert not [p for p in root.rglob("*.py") if "numba.njit" in p.read_text() and p != root / "compiled.py"]
    assert root / "geometry" / "kernels.py" in compiled._imported(root / "world" / "contact_kernel.py")


def test_a_kernel_leaves_numbas_own_setting_alone():
    before = numba.config.CACHE_DIR

    @compiled.njit()
    def twice(x):
        return 2 * x

    assert twice(np.float64(2.0)) == 4.0
    assert before == numba.config.CACHE_DIR
