"""Checkpoints: whole at every moment, tensors and JSON only."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap

import pytest
import torch
from commands import environment
from onnx_models import make_card

from i2i_runtime.errors import ModelError
from i2i_trainer.checkpoint import FORMAT, Checkpoint, load_checkpoint, load_weights, save_checkpoint


def make_checkpoint(value: float = 1.0) -> Checkpoint:
    return Checkpoint(
        cards={"G": make_card()},
        config='{"model_type": "pix2pix"}',
        networks={"G": {"weight": torch.full((256, 64), value)}},
        examples={"G": [{"input": torch.zeros(3, 4, 4).half()}]},
        training_state={"step": 3, "best": None, "rng": {"cpu": torch.get_rng_state(), "cuda": []}},
    )


@pytest.fixture
def path(tmp_path):
    save_checkpoint(tmp_path / "last.pt", make_checkpoint())
    return tmp_path / "last.pt"


def test_a_checkpoint_comes_back_as_it_was(path):
    loaded, saved = load_checkpoint(path), make_checkpoint()

    assert (loaded.cards, loaded.config) == (saved.cards, saved.config)
    assert torch.equal(loaded.networks["G"]["weight"], saved.networks["G"]["weight"])
    assert loaded.training_state["step"] == 3


def test_a_checkpoint_has_its_sha256_beside_it_in_the_common_format(path):
    checked = subprocess.run(
        ["sha256sum", "--check", "last.pt.sha256"], cwd=path.parent, capture_output=True, text=True
    )

    assert checked.stdout == "last.pt: OK\n"


def test_nothing_is_left_beside_a_finished_checkpoint(path):
    assert sorted(p.name for p in path.parent.iterdir()) == ["last.pt", "last.pt.sha256"]


@pytest.mark.parametrize("has_sum", [True, False])
def test_a_checkpoint_cut_in_half_is_refused(path, has_sum):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    if not has_sum:
        path.with_name("last.pt.sha256").unlink()

    with pytest.raises(ModelError, match=r"^[^\n]*last\.pt: (its SHA-256 is not|not a whole checkpoint)[^\n]*$"):
        load_checkpoint(path)


@pytest.mark.fault(35)
def test_a_flipped_bit_is_found(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)

    with pytest.raises(ModelError, match="SHA-256"):
        load_checkpoint(path)


@pytest.mark.fault(34)
def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path):
    trap = tmp_path / "trap"

    class Malicious:
        def __reduce__(self):
            return os.mkdir, (str(trap),)

    torch.save({"format": 1, "card": Malicious()}, tmp_path / "bad.pt")

    with pytest.raises(ModelError, match="expected tensors and JSON only"):
        load_checkpoint(tmp_path / "bad.pt")
    assert not trap.exists()


def test_someone_elses_file_is_named_as_such(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "other.pt")

    with pytest.raises(ModelError, match="expected a checkpoint of i2i-train"):
        load_checkpoint(tmp_path / "other.pt")


@pytest.mark.parametrize(
    "wrong", [{"cards": 3}, {"cards": {"G": 3}}, {"networks": []}, {"config": None}, {"training_state": 1}]
)
def test_contents_of_a_wrong_kind_are_named(tmp_path, wrong):
    payload = {
        "format": FORMAT,
        "cards": {},
        "config": "{}",
        "networks": {},
        "examples": {},
        "training_state": None,
    }
    torch.save(payload | wrong, tmp_path / "bad.pt")

    with pytest.raises(ModelError, match=rf"bad\.pt: {next(iter(wrong))}(\.G)?: expected"):
        load_checkpoint(tmp_path / "bad.pt")


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"none\.pt: no such checkpoint"):
        load_checkpoint(tmp_path / "none.pt")


def test_a_folder_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"^[^\n]*: expected a checkpoint, found a folder; name the file in it"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("operation", ["open", "is_file"])
def test_a_file_that_may_not_be_read_is_one_line(path, monkeypatch, operation):
    def refuse(self, *_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(type(path), operation, refuse)

    with pytest.raises(ModelError) as error:
        load_checkpoint(path)
    assert str(error.value) == (
        f"{path}: expected a checkpoint that can be read, found Permission denied; see who may read it"
    )
    assert error.value.exit_code == 4


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ({"format": 1, "card": "{}", "config": "", "networks": {}}, "checkpoint format 1 is unknown, this i2i reads 2"),
        ({"format": 3, "cards": {}, "networks": {}}, "checkpoint format 3 is unknown"),
        ({"format": FORMAT, "cards": {}, "networks": {}}, "expected cards, config, networks, .*found format"),
        ({"format": "pt", "cards": {}, "networks": {}}, "expected a checkpoint of i2i-train, found other contents"),
        ({"format": 1, "weight": torch.zeros(1)}, "expected a checkpoint of i2i-train, found other contents"),
        ({"format": True, "cards": {}, "networks": {}}, "expected a checkpoint of i2i-train, found other contents"),
    ],
)
def test_our_mark_is_more_than_a_key_called_format(tmp_path, payload, words):
    torch.save(payload, tmp_path / "last.pt")

    with pytest.raises(ModelError, match=words):
        load_checkpoint(tmp_path / "last.pt")


def test_weights_that_do_not_fit_are_named():
    with pytest.raises(ModelError, match=r"here: the weights do not fit.*weight"):
        load_weights(torch.nn.Linear(2, 2), {"bias": torch.zeros(2)}, "here")


def test_a_kill_between_file_and_sum_leaves_a_checkpoint_that_loads(path, monkeypatch):
    class Killed(BaseException):
        pass

    real_replace = type(path).replace

    def replace_then_die(self, target):
        real_replace(self, target)
        if target == path:
            raise Killed

    monkeypatch.setattr(type(path), "replace", replace_then_die)
    with pytest.raises(Killed):
        save_checkpoint(path, make_checkpoint(2.0))

    assert load_checkpoint(path).networks["G"]["weight"][0, 0] == 2.0


def test_a_full_disk_leaves_the_checkpoint_before(path):
    script = textwrap.dedent(
        f"""
        import resource, signal, sys
        from pathlib import Path
        from test_checkpoint import make_checkpoint
        from i2i_runtime.errors import SinkError
        from i2i_trainer.checkpoint import save_checkpoint

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        try:
            save_checkpoint(Path({str(path)!r}), make_checkpoint(2.0))
        except SinkError as error:
            print(error)
        """
    )
    here = os.pathsep.join([os.path.dirname(__file__), os.path.dirname(os.path.dirname(__file__))])  # noqa: PTH120
    env = environment()
    env["PYTHONPATH"] += os.pathsep + here

    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=env)

    assert "the checkpoint cannot be written" in finished.stdout, finished.stderr
    assert load_checkpoint(path).networks["G"]["weight"][0, 0] == 1.0
    assert sorted(p.name for p in path.parent.iterdir()) == ["last.pt", "last.pt.sha256"]
