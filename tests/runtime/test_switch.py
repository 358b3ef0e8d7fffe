"""Several models: the next one takes over between two frames, and running out of memory is survived once."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from onnx_models import make_card

from i2i_runtime.controls import Controls
from i2i_runtime.errors import ModelError, OutOfMemoryError
from i2i_runtime.switch import Model, ModelSwitch

IMAGE = np.zeros((4, 4, 3), np.uint8)


class Adds:
    """Adds a number to the picture; the first `failures` runs have no memory."""

    def __init__(self, number: int, failures: int = 0) -> None:
        self.card = make_card(None)
        self.provider = f"adds {number}"
        self.closed = 0
        self._number, self._failures = number, failures

    def __call__(self, image):
        if self._failures:
            self._failures -= 1
            raise OutOfMemoryError("no memory")
        return image + self._number

    def close(self):
        self.closed += 1


def switch_of(*numbers: int) -> tuple[ModelSwitch, Controls, list[Adds]]:
    loaded = []

    def loading(number: int):
        def load() -> Adds:
            loaded.append(Adds(number))
            return loaded[-1]

        return load

    switch = ModelSwitch([Model(name=f"model{number}", load=loading(number)) for number in numbers])
    controls = Controls()
    switch.bind(controls)
    return switch, controls, loaded


def after_loading(switch: ModelSwitch) -> int:
    """What the model adds once the next one was given the time to load."""
    until = time.monotonic() + 5
    while switch._loaded is None and time.monotonic() < until:
        time.sleep(0.005)
    return int(switch(IMAGE)[0, 0, 0])


def test_only_the_first_model_is_loaded_at_the_start():
    switch, controls, loaded = switch_of(1, 2)

    assert len(loaded) == 1
    assert switch(IMAGE)[0, 0, 0] == 1
    assert controls.state().engine == "model1"
    assert controls.state().engines == ("model1", "model2")


def test_the_next_model_takes_over_with_a_frame_and_the_one_before_is_closed():
    switch, controls, loaded = switch_of(1, 2)

    controls.do("next-engine")

    assert after_loading(switch) == 2
    assert loaded[0].closed == 1
    assert controls.state().engine == "model2"
    assert switch.provider == "adds 2"


def test_after_the_last_model_comes_the_first():
    switch, controls, _ = switch_of(1, 2)

    controls.do("next-engine")
    assert after_loading(switch) == 2
    controls.do("next-engine")
    assert after_loading(switch) == 1


def test_frames_go_on_while_the_next_model_loads():
    gate = threading.Event()

    def load() -> Adds:
        gate.wait(5)
        return Adds(2)

    switch = ModelSwitch([Model(name="a", load=lambda: Adds(1)), Model(name="b", load=load)])
    controls = Controls()
    switch.bind(controls)

    controls.do("next-engine")
    controls.do("next-engine")  # impatient
    assert switch(IMAGE)[0, 0, 0] == 1
    gate.set()

    assert after_loading(switch) == 2
    switch.close()


def test_a_model_that_cannot_be_loaded_leaves_the_one_that_runs():
    def fail() -> Adds:
        raise ModelError("b.onnx: not an ONNX model")

    switch = ModelSwitch([Model(name="a", load=lambda: Adds(1)), Model(name="b", load=fail)])
    controls = Controls()
    switch.bind(controls)

    controls.do("next-engine")
    switch._loader.join()

    assert switch(IMAGE)[0, 0, 0] == 1
    assert controls.state().engine == "a"
    assert controls.state().message == "b.onnx: not an ONNX model"


def test_with_one_model_there_is_no_next():
    _, controls, _ = switch_of(1)

    assert "next-engine" not in controls.actions


@pytest.mark.fault(33)
def test_a_model_that_runs_out_of_memory_is_loaded_anew_once():
    loaded = [Adds(1, failures=1), Adds(1)]
    models = iter(loaded)
    switch = ModelSwitch([Model(name="a", load=lambda: next(models))])

    assert switch(IMAGE)[0, 0, 0] == 1
    assert loaded[0].closed == 1


@pytest.mark.fault(33)
def test_a_model_that_runs_out_of_memory_twice_is_a_device_error():
    switch = ModelSwitch([Model(name="a", load=lambda: Adds(1, failures=9))])

    with pytest.raises(OutOfMemoryError, match="no memory") as error:
        switch(IMAGE)
    assert error.value.exit_code == 6


def test_all_that_is_loaded_is_closed():
    switch, controls, loaded = switch_of(1, 2)
    controls.do("next-engine")
    switch._loader.join()

    switch.close()

    assert [each.closed for each in loaded] == [1, 1]
