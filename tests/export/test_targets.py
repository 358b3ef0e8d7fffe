"""Each target's files come whole, proven and alone; what a machine cannot make is one line with the way to make it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from commands import environment, here, the_error_line
from drawings import drawing
from foreign_networks import as_if_trained, resnet
from interpreter import python
from onnx import TensorProto, helper
from onnx_models import make_card, negative_model
from plans import needs_no_gpu, needs_rtx
from untrained import save_untrained

from i2i_export import targets
from i2i_export.graph import save_with_card
from i2i_export.targets import choose_target
from i2i_runtime import Translator
from i2i_runtime.card import METADATA_KEY, Card, SizeProfile
from i2i_runtime.digest import file_sha256
from i2i_runtime.engines.manifest import read_manifest
from i2i_runtime.errors import UsageError
from i2i_runtime.image import write_image

needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed: pip install 'i2i[openvino]'"
)
needs_no_tensorrt = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt") is not None, reason="says what happens without TensorRT, and here it is"
)
RTX = ("--target", "tensorrt-rtx")


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def card_in(path: Path) -> Card:
    (entry,) = (entry for entry in onnx.load(path).metadata_props if entry.key == METADATA_KEY)
    return Card.from_json(entry.value)


def export(source, target, *arguments) -> subprocess.CompletedProcess[str]:
    finished = here("i2i-export", source, "-o", target, *arguments)
    assert finished.returncode == 0, finished.stderr
    return finished


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_untrained(tmp_path_factory.mktemp("checkpoint") / "last.pt", pictures=2)


@pytest.fixture(scope="module")
def zebra(checkpoint):
    """A plan of TensorRT-RTX with everything that stands beside it."""
    folder = checkpoint.with_name("zebra")
    export(checkpoint, folder / "zebra.plan", *RTX)
    return folder / "zebra.plan"


@pytest.fixture(scope="module")
def openvino_model(checkpoint):
    folder = checkpoint.with_name("openvino")
    export(checkpoint, folder / "model.xml")
    return folder / "model.xml"


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """A CycleGAN's generator as its authors' training saves it."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("horse2zebra")
    torch.save(as_if_trained(resnet(blocks=6, ngf=2)).state_dict(), folder / "latest_net_G.pth")
    return folder / "latest_net_G.pth"


# which target


@pytest.mark.parametrize(
    ("target", "output", "chosen"),
    [
        (None, None, "onnx"),
        (None, "a.onnx", "onnx"),
        (None, "a.ONNX", "onnx"),
        (None, "a.xml", "openvino"),
        ("tensorrt", "a.plan", "tensorrt"),
        ("tensorrt-rtx", "a.engine", "tensorrt-rtx"),
        ("openvino", None, "openvino"),
    ],
)
def test_the_suffix_or_the_name_says_what_to_make(target, output, chosen):
    assert choose_target(target, output and Path(output)) == chosen


@pytest.mark.parametrize(
    ("installed", "chosen"),
    [
        ({"tensorrt", "tensorrt_rtx_bindings"}, "tensorrt"),
        ({"tensorrt"}, "tensorrt"),
        ({"tensorrt_rtx_bindings"}, "tensorrt-rtx"),
        (set(), "tensorrt"),
    ],
)
@pytest.mark.parametrize("output", ["a.plan", "a.engine"])
def test_a_plan_is_made_by_the_library_that_is_installed(monkeypatch, installed, chosen, output):
    monkeypatch.setattr(targets.importlib.util, "find_spec", lambda name: name if name in installed else None)

    assert choose_target(None, Path(output)) == chosen


@pytest.mark.parametrize(
    ("target", "output", "message"),
    [
        (None, "a.pb", "expected a name ending in .onnx, .xml, .plan or .engine"),
        (None, "a", "expected a name ending in"),
        ("onnx", "a.plan", "expected a name ending in .onnx for onnx"),
        ("openvino", "a.onnx", "expected a name ending in .xml for openvino"),
        ("tensorrt", "a.xml", "expected a name ending in .plan for tensorrt"),
    ],
)
def test_a_name_that_means_something_else_is_refused(target, output, message):
    with pytest.raises(UsageError, match=message):
        choose_target(target, Path(output))


# plans


@needs_rtx
def test_a_plan_comes_with_its_sidecar_its_graph_and_its_proof_and_nothing_else(zebra):
    parts = ["zebra.plan", "zebra.plan.json", "zebra.plan.onnx", "zebra.plan.parity.png"]
    assert files(zebra.parent) == parts

    manifest = read_manifest(zebra)
    assert (manifest.onnx, manifest.onnx_sha256) == ("zebra.plan.onnx", file_sha256(zebra.with_name("zebra.plan.onnx")))
    assert manifest.plan_sha256 == file_sha256(zebra)
    # Pictures go to a GPU as bytes.
    assert manifest.card.export.graph_io == "uint8"
    assert "ONNX Runtime CPU" in [record.engine for record in manifest.card.parity]


@needs_rtx
@needs_no_gpu
def test_a_plan_that_cannot_run_here_says_that_its_graph_was_proven(checkpoint, tmp_path):
    finished = export(checkpoint, tmp_path / "zebra.plan", *RTX)

    assert "zebra.plan: not run here, this machine has no GPU" in finished.stderr


@needs_rtx
def test_the_same_plan_is_built_once(zebra, tmp_path):
    first = export(zebra.with_name("zebra.plan.onnx"), tmp_path / "one.plan", *RTX, "--no-cache")
    second = export(zebra.with_name("zebra.plan.onnx"), tmp_path / "two.plan", *RTX)

    assert "one.plan: built in " in first.stderr
    assert "two.plan: from the engine cache in " in second.stderr
    assert files(tmp_path) == ["one.plan", "one.plan.json", "two.plan", "two.plan.json"]


@needs_no_tensorrt
def test_without_tensorrt_the_graph_is_proven_written_and_the_devices_command_told(checkpoint, tmp_path):
    finished = here("i2i-export", checkpoint, "-o", tmp_path / "zebra.plan", "--target", "tensorrt")

    assert finished.returncode == 6
    line = the_error_line(finished)
    assert "zebra.plan: not built, TensorRT cannot be loaded" in line
    assert line.endswith("on the device run i2i-export zebra.plan.onnx -o zebra.plan --target tensorrt")
    assert files(tmp_path) == ["zebra.plan.onnx", "zebra.plan.parity.png"]
    assert card_in(tmp_path / "zebra.plan.onnx").parity[0].engine == "ONNX Runtime CPU"


WITHOUT_TORCH = """
import sys
for name in ("torch", "onnxruntime", "onnxscript", "torchmetrics"):
    sys.modules[name] = None
from i2i_export.cli import main
main()
"""


@needs_rtx
def test_on_a_device_without_torch_the_plan_is_built_from_its_graph(zebra, tmp_path):
    graph = tmp_path / "zebra.plan.onnx"
    graph.write_bytes(zebra.with_name(graph.name).read_bytes())

    finished = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(graph), "-o", str(tmp_path / "zebra.plan"), *RTX, "--no-cache"],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=120,
    )

    assert finished.returncode == 0, finished.stderr
    assert files(tmp_path) == ["zebra.plan", "zebra.plan.json", "zebra.plan.onnx"]
    manifest = read_manifest(tmp_path / "zebra.plan")
    assert manifest.card == card_in(graph)
    assert manifest.plan_sha256 == file_sha256(tmp_path / "zebra.plan")


@needs_rtx
def test_a_plan_that_was_altered_is_not_loaded(zebra, tmp_path):
    plan = tmp_path / "zebra.plan"
    content = bytearray(zebra.read_bytes())
    content[len(content) // 2] ^= 1
    plan.write_bytes(content)
    plan.with_name("zebra.plan.json").write_bytes(zebra.with_name("zebra.plan.json").read_bytes())
    write_image(tmp_path / "a.png", drawing(0))

    # Trust is for plans that nothing vouches for, not for those that their sidecar denies.
    for trust in ((), ("--trust-engine",)):
        finished = here(
            "i2i-run", "--engine", plan, "--images", tmp_path / "a.png", "--output", tmp_path / "out", *trust
        )

        assert finished.returncode == 4
        assert "its SHA-256 is not the one in zebra.plan.json" in the_error_line(finished)
        assert list(tmp_path.glob("out/*")) == []


# OpenVINO


@needs_openvino
def test_openvino_gets_its_two_files_and_a_proof_of_its_own(openvino_model):
    assert files(openvino_model.parent) == ["model.bin", "model.xml", "model.xml.parity.png"]

    with Translator(openvino_model) as translator:
        card = translator.card
        picture = drawing(1, 32, 32)
        result = translator(picture)
    assert [record.engine for record in card.parity] == ["ONNX Runtime CPU", "OpenVINO CPU"]
    assert all(record.max_abs <= record.tolerance == 1e-4 for record in card.parity)
    assert result.shape == picture.shape


@needs_openvino
@pytest.mark.parametrize(("precision", "least"), [("fp16", 45), ("int8", 10)])
def test_openvino_in_other_precisions(checkpoint, tmp_path, precision, least):
    export(checkpoint, tmp_path / "model.xml", f"--{precision}", "--min-psnr", least)

    assert files(tmp_path) == ["model.bin", "model.xml", "model.xml.parity.png"]
    with Translator(tmp_path / "model.xml") as translator:
        card = translator.card
    assert (card.export.precision, card.parity[-1].engine) == (precision, "OpenVINO CPU")
    assert card.parity[-1].worst_psnr_db >= least


@needs_openvino
def test_openvino_from_an_onnx_file(tmp_path):
    source = negative_model(tmp_path / "model.onnx", make_card())

    export(source, tmp_path / "out" / "model.xml")

    assert files(tmp_path / "out") == ["model.bin", "model.xml"]
    with Translator(tmp_path / "out" / "model.xml") as translator:
        card = translator.card
        picture = drawing(0)
        assert np.abs(translator(picture).astype(int) - (255 - picture)).max() <= 1
    (record,) = card.parity
    assert (record.engine, record.max_abs <= 1e-6) == ("OpenVINO CPU", True)
    assert replace(card, parity=()) == card_in(source)


@needs_openvino
def test_what_differs_from_its_onnx_file_is_not_written(tmp_path, monkeypatch):
    from i2i_runtime.engines.openvino import OpenVinoEngine

    right = OpenVinoEngine.run
    monkeypatch.setattr(OpenVinoEngine, "run", lambda engine, *inputs: right(engine, *inputs) + 0.01)
    source = negative_model(tmp_path / "model.onnx", make_card())

    finished = here("i2i-export", source, "-o", tmp_path / "model.xml")

    assert finished.returncode == 4
    assert "OpenVINO CPU differs by 0.01" in the_error_line(finished)
    assert files(tmp_path) == ["model.onnx"]
    # What passes is the user's to say.
    export(source, tmp_path / "model.xml", "--tolerance", 0.02)


# --info


def info(path) -> dict[str, str]:
    """The facts by their names; those of every file that belongs to the model are checked here."""
    finished = here("i2i-export", "--info", path)
    assert finished.returncode == 0, finished.stderr
    lines = [line.split("  ", 1) for line in finished.stdout.splitlines() if not line.startswith(" ")]
    pairs = [(name, value.strip()) for name, value in lines]
    parts = [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]
    assert [value for name, value in pairs if name == "SHA-256"] == [file_sha256(part) for part in parts]
    named = [value.rpartition(", ")[0] for name, value in pairs if name == "file"]
    assert named == [part.name for part in parts]
    return dict(pairs)


def test_info_of_a_checkpoint(checkpoint):
    facts = info(checkpoint)

    assert facts["generator AtoB"].startswith("resnet_1blocks, 0.0")
    assert facts["model"] == "drawings: pix2pix, AtoB, resnet_1blocks"
    assert facts["training"] == "drawings, 32x32, 3 steps, batch 1"
    assert facts["example pictures"] == "2"


def test_info_of_somebody_elses_checkpoint(foreign):
    facts = info(foreign)

    assert facts["model"] == "horse2zebra0: cyclegan, AtoB, resnet_6blocks"
    assert "training" not in facts


def test_info_of_an_onnx_file(checkpoint, tmp_path):
    path = negative_model(tmp_path / "model.onnx", make_card((64, 80)))

    facts = info(path)

    assert (facts["input image"], facts["output result"]) == ("float32 1x3x64x80", "float32 1x3x64x80")
    assert facts["graph"] == "opset 18, 1 nodes: 1 Mul"
    cost = "0 multiply-adds, 15.4 kFLOP, 0 parameters, 122.9 kB moved layer by layer (at 64x80)"
    assert facts["one inference"] == cost
    assert facts["export"] == "fp32, float I/O, image statistics"


def test_info_of_an_onnx_file_without_a_card(tmp_path):
    assert info(negative_model(tmp_path / "model.onnx", bare=True))["card"].startswith("none")


def test_info_of_a_graph_of_many_sizes_counts_at_the_typical_one(tmp_path):
    card = make_card(None)
    sizes = SizeProfile(smallest=(8, 8), typical=(32, 48), largest=(64, 64), batch=4)
    card = replace(card, export=replace(card.export, profile=sizes))

    assert info(negative_model(tmp_path / "model.onnx", card))["one inference"].endswith("(at 32x48)")


def test_info_of_a_graph_that_cannot_be_counted_says_why(tmp_path):
    path = negative_model(tmp_path / "model.onnx", make_card(None), bare=True)

    assert info(path)["one inference"] == "not counted: input image takes several sizes; expected one to count at"


@needs_rtx
def test_info_of_a_plan_counts_the_graph_that_it_was_built_from(zebra, tmp_path):
    of_the_graph = info(zebra.with_name("zebra.plan.onnx"))["one inference"]
    for name in ("zebra.plan", "zebra.plan.json"):
        (tmp_path / name).write_bytes(zebra.with_name(name).read_bytes())

    assert info(zebra)["one inference"] == of_the_graph
    assert of_the_graph.endswith("(at 32x32)")
    # Without its graph, or beside another one, there is nothing to count.
    assert "one inference" not in info(tmp_path / "zebra.plan")
    negative_model(tmp_path / "zebra.plan.onnx")
    assert "one inference" not in info(tmp_path / "zebra.plan")


@needs_rtx
def test_info_of_a_plan_needs_no_onnx(zebra):
    code = WITHOUT_TORCH.replace('"torch"', '"torch", "onnx"')

    finished = python(code, "--info", zebra)

    assert finished.returncode == 0, finished.stderr
    assert "one inference" not in finished.stdout
    assert "built from" in finished.stdout


@needs_rtx
def test_info_of_a_plan(zebra):
    facts = info(zebra)

    assert facts["built from"] == f"zebra.plan.onnx, SHA-256 {file_sha256(zebra.with_name('zebra.plan.onnx'))}"
    assert facts["built by"].startswith("TensorRT-RTX ")
    assert facts["model"] == "drawings: pix2pix, AtoB, resnet_1blocks"
    assert facts["export"] == "fp32, uint8 I/O, image statistics"
    assert facts["proof"].startswith("ONNX Runtime CPU: PSNR ")
    assert facts["made from"].startswith("SHA-256 ")


@needs_openvino
def test_info_of_an_openvino_model(openvino_model):
    facts = info(openvino_model)

    assert facts["input image"] == "float32 1x3x32x32"
    assert facts["model"] == "drawings: pix2pix, AtoB, resnet_1blocks"
    assert facts["runs in"].startswith("OpenVINO")


@pytest.mark.parametrize(("name", "content", "code"), [("a.txt", b"", 2), ("a.onnx", b"\xff", 4), ("a.onnx", b"", 4)])
def test_info_of_what_is_no_model_is_one_line(tmp_path, name, content, code):
    (tmp_path / name).write_bytes(content)

    finished = here("i2i-export", "--info", tmp_path / name)

    assert finished.returncode == code
    assert name in the_error_line(finished)


def test_info_of_a_missing_file(tmp_path):
    finished = here("i2i-export", "--info", tmp_path / "a.onnx")

    assert finished.returncode == 4
    assert "no such file" in the_error_line(finished)


# failures leave nothing behind, and what was there as it was


@pytest.mark.parametrize(
    "name",
    [
        "model.onnx",
        pytest.param("model.xml", marks=needs_openvino),
        pytest.param("model.plan", marks=needs_rtx),
    ],
)
def test_a_proof_that_fails_touches_nothing(checkpoint, tmp_path, name):
    before = {name: b"the model before", "model.bin": b"its weights", f"{name}.parity.png": b"its proof"}
    for file, content in before.items():
        (tmp_path / file).write_bytes(content)
    target = RTX if name.endswith("plan") else ()

    finished = here("i2i-export", checkpoint, "-o", tmp_path / name, *target, "--io", "float", "--tolerance", 0)

    assert finished.returncode == 4
    assert "ONNX Runtime CPU differs by " in the_error_line(finished)
    assert "expected at most 0; nothing was written" in the_error_line(finished)
    assert "FAILS" in finished.stdout
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_graph_that_computes_something_else_does_not_pass(checkpoint, tmp_path, monkeypatch):
    from i2i_export import delivery

    build = delivery.build_graph

    def wrong(generator, card):
        model = build(generator, card)
        (last,) = (node for node in model.graph.node if node.op_type == "Tanh")
        last.op_type = "Softsign"
        return model

    monkeypatch.setattr(delivery, "build_graph", wrong)

    finished = here("i2i-export", checkpoint, "-o", tmp_path / "model.onnx")

    assert finished.returncode == 4
    assert "differs by" in the_error_line(finished)
    assert files(tmp_path) == []


@needs_openvino
def test_an_engine_that_computes_something_else_does_not_pass(checkpoint, tmp_path, monkeypatch):
    """The ONNX graph is right, and what was made of it is not: as a faulty kernel would be."""
    from i2i_runtime.engines.openvino import OpenVinoEngine

    right = OpenVinoEngine.run
    monkeypatch.setattr(OpenVinoEngine, "run", lambda engine, *inputs: right(engine, *inputs) + 0.01)

    finished = here("i2i-export", checkpoint, "-o", tmp_path / "model.xml")

    assert finished.returncode == 4
    assert "OpenVINO CPU differs by 0.01" in the_error_line(finished)
    assert files(tmp_path) == []


# files that mean harm


@pytest.mark.parametrize("location", ["../weights.bin", "ABSOLUTE", "sub/../../weights.bin"])
@pytest.mark.parametrize("arguments", [("--info",), ("-o", "model.plan", *RTX)])
def test_weights_outside_the_models_folder_are_not_read(tmp_path, location, arguments):
    secret = tmp_path / "weights.bin"
    secret.write_bytes(np.ones(3, np.float32).tobytes())
    (tmp_path / "home" / "sub").mkdir(parents=True)
    tensor = onnx.TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    place = str(secret) if location == "ABSOLUTE" else location
    tensor.external_data.append(onnx.StringStringEntryProto(key="location", value=place))
    graph = helper.make_graph(
        [helper.make_node("Add", ["image", "w"], ["result"])],
        "test",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [3])],
        [helper.make_tensor_value_info("result", TensorProto.FLOAT, [3])],
        [tensor],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    (tmp_path / "home" / "model.onnx").write_bytes(model.SerializeToString())
    if "-o" in arguments and importlib.util.find_spec("tensorrt_rtx_bindings") is None:
        pytest.skip("TensorRT-RTX is not installed")
    arguments = [tmp_path / "home" / part if part == "model.plan" else part for part in arguments]

    finished = here("i2i-export", tmp_path / "home" / "model.onnx", *arguments)

    assert finished.returncode == 4
    assert "weights.bin, expected a file in the model's own folder" in the_error_line(finished)
    assert files(tmp_path / "home") == ["model.onnx", "sub"]


class Harm:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
@pytest.mark.parametrize("arguments", [("-o", "model.onnx"), ("--info",)])
@pytest.mark.fault(34)
def test_code_in_a_checkpoint_is_not_run(tmp_path, monkeypatch, suffix, arguments):
    path = tmp_path / f"latest_net_G{suffix}"
    torch.save({"model.1.weight": torch.zeros(1), "harm": Harm(tmp_path / "marker")}, path)

    monkeypatch.chdir(tmp_path)
    finished = here("i2i-export", path.name, *arguments)

    assert finished.returncode == 4
    assert path.name in the_error_line(finished)
    assert files(tmp_path) == [path.name]


# somebody else's checkpoint


def test_somebody_elses_generator_is_exported_on_drawn_pictures(foreign, tmp_path):
    finished = export(foreign, tmp_path / "zebra.onnx", "--fp16", "--size", 64)

    assert (
        "note: this file brings no pictures: it is proven on drawn ones; --pictures DIR takes yours" in finished.stderr
    )
    assert files(tmp_path) == ["zebra.onnx", "zebra.onnx.parity.png"]
    card = card_in(tmp_path / "zebra.onnx")
    assert (card.model_type, card.generator.name, card.export.precision) == ("cyclegan", "resnet_6blocks", "fp16")
    assert card.made_with.source_sha256 == file_sha256(foreign)


def test_somebody_elses_generator_computes_what_its_author_computes(foreign, tmp_path):
    for number in range(2):
        write_image(tmp_path / f"{number}.png", drawing(number, 64, 64))

    finished = export(foreign, tmp_path / "out" / "zebra.onnx", "--size", 64, "--pictures", tmp_path)

    assert "note:" not in finished.stderr
    assert card_in(tmp_path / "out" / "zebra.onnx").parity[0].pictures == 2
    author = resnet(blocks=6, ngf=2)
    author.load_state_dict(torch.load(foreign, weights_only=True))
    picture = drawing(5, 64, 64)
    tensor = torch.from_numpy(picture[:, :, ::-1].transpose(2, 0, 1).astype(np.float32) / 127.5 - 1)[None]
    with torch.no_grad():
        levels = (author(tensor)[0].numpy().transpose(1, 2, 0)[:, :, ::-1] + 1) * 127.5
    with Translator(tmp_path / "out" / "zebra.onnx") as translator:
        assert np.abs(translator(picture) - levels).max() <= 1


# what an ONNX file has decided already


@pytest.mark.parametrize(
    "arguments",
    [
        ("--fp16",),
        ("--int8",),
        ("--dynamic",),
        ("--size", 64),
        ("--style", 0),
        ("--style", 1),
        ("--arch", "resnet_9blocks"),
        ("--direction", "BtoA"),
        ("--io", "uint8"),
        ("--norm-statistics", "running"),
    ],
)
def test_an_option_that_an_onnx_file_cannot_follow_is_refused(tmp_path, arguments):
    source = negative_model(tmp_path / "model.onnx", make_card())

    finished = here("i2i-export", source, "-o", tmp_path / "model.xml", *arguments)

    assert finished.returncode == 2
    assert the_error_line(finished).startswith(f"error: {arguments[0]}: ")
    assert files(tmp_path) == ["model.onnx"]


def test_an_onnx_file_is_an_onnx_file_already(tmp_path):
    source = negative_model(tmp_path / "model.onnx", make_card())

    finished = here("i2i-export", source)

    assert finished.returncode == 2
    assert "is an ONNX file already" in the_error_line(finished)


@needs_rtx
def test_a_graph_that_was_saved_with_another_card_keeps_it(zebra, tmp_path):
    model = onnx.load(zebra.with_name("zebra.plan.onnx"))
    card = replace(card_in(zebra.with_name("zebra.plan.onnx")), name="horses")
    save_with_card(model, card, tmp_path / "horses.onnx")

    export(tmp_path / "horses.onnx", tmp_path / "horses.plan", *RTX)

    assert read_manifest(tmp_path / "horses.plan").card == card


# what the options allow


def nan_weights(generator: torch.nn.Module) -> None:
    next(module for module in generator.modules() if isinstance(module, torch.nn.Conv2d)).weight[0] = torch.nan


@pytest.mark.parametrize("arguments", [(), ("--fp16",)])
@pytest.mark.parametrize("graph_io", ["float", "uint8"])
def test_weights_that_are_no_numbers_pass_in_no_precision(tmp_path, graph_io, arguments):
    """Grey levels hide NaN: both sides of the comparison would be black."""
    checkpoint = save_untrained(tmp_path / "last.pt", change=nan_weights)

    finished = here("i2i-export", checkpoint, "-o", tmp_path / "model.onnx", "--io", graph_io, *arguments)

    assert finished.returncode == 4
    assert "the generator returns NaN or infinity" in the_error_line(finished)
    assert not (tmp_path / "model.onnx").exists()


def test_a_tolerance_stands_beside_the_usual_psnr(checkpoint, tmp_path):
    export(checkpoint, tmp_path / "model.onnx", "--fp16", "--tolerance", 0.5)

    assert {(r.tolerance, r.min_psnr_db) for r in card_in(tmp_path / "model.onnx").parity} == {(0.5, 45.0)}


def test_a_psnr_stands_beside_the_usual_tolerance(checkpoint, tmp_path):
    export(checkpoint, tmp_path / "model.onnx", "--min-psnr", 90)

    assert {(r.tolerance, r.min_psnr_db) for r in card_in(tmp_path / "model.onnx").parity} == {(1e-4, 90.0)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--workspace", 64), "--workspace: it is for plans"),
        (("--no-cache",), "--no-cache: it is for plans"),
        (("--calibration", "entropy"), "--calibration: expected --int8"),
        (("--max-batch", 2), "--max-batch: expected --dynamic"),
        (("--fp16", "--int8"), "--fp16 and --int8: expected one of them"),
        (("--info",), "--info shows what FILE is"),
    ],
)
def test_an_option_without_effect_is_refused(checkpoint, tmp_path, arguments, message):
    finished = here("i2i-export", checkpoint, "-o", tmp_path / "model.onnx", *arguments)

    assert finished.returncode == 2
    assert message in the_error_line(finished)
    assert files(tmp_path) == []


@needs_rtx
def test_the_sizes_of_a_dynamic_onnx_file_without_a_card_are_given(tmp_path):
    source = negative_model(tmp_path / "model.onnx", make_card(None), bare=True)

    refused = here("i2i-export", source, "-o", tmp_path / "model.plan", *RTX)
    sizes = ("--dynamic", "--size", 32, "--max-size", "48x64")
    export(source, tmp_path / "model.plan", *RTX, *sizes)

    assert refused.returncode == 2
    assert "give --dynamic --size N" in the_error_line(refused)
    (shape,) = read_manifest(tmp_path / "model.plan").shapes
    assert (shape.smallest, shape.typical, shape.largest) == ((1, 3, 16, 16), (1, 3, 32, 32), (1, 3, 48, 64))


def test_of_many_pictures_some_from_all_over_are_taken(checkpoint, tmp_path):
    (tmp_path / "pictures").mkdir()
    for number in range(70):
        write_image(tmp_path / "pictures" / f"{number:03}.png", drawing(number, 20, 30))

    export(checkpoint, tmp_path / "model.onnx", "--pictures", tmp_path / "pictures")

    assert card_in(tmp_path / "model.onnx").parity[0].pictures == 24
