"""The runtime lives without torch, and answers at once."""

from __future__ import annotations

import resource
import subprocess
import sys

import cv2
import numpy as np
import pytest
from commands import REPOSITORY, command_line, environment
from interpreter import python
from onnx_models import make_card, negative_model

WITHOUT_TRAINING = """
import sys
for name in ("torch", "onnx", "onnxscript", "i2i_trainer", "i2i_export"):
    sys.modules[name] = None
"""


def test_every_module_of_the_runtime_can_be_imported_without_torch_and_onnx():
    modules = [
        ".".join(path.relative_to(REPOSITORY / "runtime").with_suffix("").parts)
        for path in (REPOSITORY / "runtime" / "i2i_runtime").rglob("*.py")
        if path.name != "__main__.py"
    ]

    finished = python(f"{WITHOUT_TRAINING}\nimport importlib\nfor name in {modules}: importlib.import_module(name)")

    assert len(modules) > 20
    assert finished.returncode == 0, finished.stderr


def test_a_whole_translation_runs_without_torch_and_onnx(tmp_path):
    image = np.full((8, 8, 3), (10, 20, 30), np.uint8)
    (tmp_path / "photos").mkdir()
    cv2.imwrite(str(tmp_path / "photos" / "cat.png"), image)
    model = negative_model(tmp_path / "model.onnx", make_card(None))
    arguments = ["--images", tmp_path / "photos", "--engine", model, "--output", tmp_path / "results"]

    finished = python(f"{WITHOUT_TRAINING}\nfrom i2i_runtime.cli import main\nmain()", *arguments)

    assert finished.returncode == 0, finished.stderr
    assert np.array_equal(cv2.imread(str(tmp_path / "results" / "cat.png")), 255 - image)


def test_the_package_hands_out_its_public_names():
    code = """
import i2i_runtime
from i2i_runtime import Card, Frame, LabelTranslator, Options, Pipeline, TiledTranslator, Translator
from i2i_runtime import open_sink, open_source
names = "Card Frame LabelTranslator Options Pipeline TiledTranslator Translator open_sink open_source"
print(sorted(i2i_runtime.__all__) == names.split())
"""

    assert python(code).stdout == "True\n"


def test_a_name_that_the_package_does_not_have_is_an_attribute_error():
    assert (
        "AttributeError: module 'i2i_runtime' has no attribute 'Trainer'"
        in python("import i2i_runtime\ni2i_runtime.Trainer").stderr
    )


HEAVY = "{'numpy', 'cv2', 'av', 'onnxruntime', 'torch', 'onnx', 'rich'}"


def test_importing_the_package_loads_nothing_heavy():
    assert python(f"import sys, i2i_runtime\nprint({HEAVY} & set(sys.modules))").stdout == "set()\n"


@pytest.mark.parametrize(
    ("package", "arguments"),
    [("i2i_runtime", []), ("i2i_export", []), ("i2i_trainer", []), ("i2i_trainer", ["pix2pix"])],
)
def test_help_loads_nothing_heavy(package, arguments):
    code = f"""
import atexit, sys
atexit.register(lambda: print({HEAVY} & set(sys.modules)))
from {package}.cli import main
main()
"""

    stdout = python(code, *arguments, "--help").stdout

    assert "Usage: " in stdout
    assert stdout.endswith("set()\n")


def test_a_mistake_on_the_command_line_is_answered_without_loading_anything_heavy():
    code = f"""
import atexit, sys
atexit.register(lambda: print({HEAVY} & set(sys.modules)))
from i2i_runtime.cli import main
main()
"""

    finished = python(code, "--engine", "model.onnx")

    assert finished.returncode == 2
    assert finished.stdout == "set()\n"


def processor_seconds(command: list[str]) -> float:
    """The least of five runs. On an idle machine it is the time a user waits; on a busy one it stays the same."""

    def once() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, env=environment(), capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return min(once() for _ in range(5))


def test_help_answers_within_three_tenths_of_a_second_over_bare_python():
    bare = processor_seconds([sys.executable, "-c", "pass"])

    assert processor_seconds(command_line("i2i-run", "--help")) - bare < 0.3


def test_the_package_is_imported_within_three_tenths_of_a_second_over_bare_python():
    bare = processor_seconds([sys.executable, "-c", "pass"])

    assert processor_seconds([sys.executable, "-c", "import i2i_runtime"]) - bare < 0.3


def test_a_run_does_not_read_what_every_installed_package_is_called(tmp_path):
    for number in range(1000):
        folder = tmp_path / f"package{number}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: package{number}\nVersion: 1.0\n")
    code = """
import sys, time
from i2i_runtime.engines.open import wheel_conflicts
sys.path.append(sys.argv[1])
began = time.process_time()
wheel_conflicts()
print(time.process_time() - began)
"""

    assert float(python(code, tmp_path).stdout) < 0.1
