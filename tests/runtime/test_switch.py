"""Several models: the next one takes over between two frames, and running out of memory is survived once."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from onnx_models import make_card

from i2i_runtime.card import LabelSpec
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


def test_an_impatient_second_press_loads_nothing_that_could_not_be_freed():
    switch, controls, loaded = switch_of(1, 2)
    controls.do("next-engine")
    switch._loader.join()

    controls.do("next-engine")  # no frame came meanwhile
    switch.close()

    assert [each.closed for each in loaded] == [1, 1]


def test_a_loader_that_fails_in_an_unknown_way_leaves_the_model_that_runs():
    def fail() -> Adds:
        raise RuntimeError("a bug in a library")

    switch = ModelSwitch([Model(name="a", load=lambda: Adds(1)), Model(name="b", load=fail)])
    controls = Controls()
    switch.bind(controls)

    controls.do("next-engine")
    switch._loader.join()

    assert switch(IMAGE)[0, 0, 0] == 1
    assert controls.state().message == "b: a bug in a library"


def test_a_model_of_label_maps_does_not_take_over_from_one_of_pictures():
    labelled = Adds(2)
    labelled.card = replace(labelled.card, labels=LabelSpec(count=4))
    switch = ModelSwitch([Model(name="a", load=lambda: Adds(1)), Model(name="b", load=lambda: labelled)])
    controls = Controls()
    switch.bind(controls)

    controls.do("next-engine")
    switch._loader.join()

    assert switch(IMAGE)[0, 0, 0] == 1
    assert labelled.closed == 1
    assert controls.state().message == "b: takes label maps; not switched"


def test_a_model_that_is_still_loading_when_the_run_ends_is_not_waited_for_but_freed():
    gate, late = threading.Event(), Adds(2)

    def load() -> Adds:
        gate.wait(5)
        return late

    switch = ModelSwitch([Model(name="a", load=lambda: Adds(1)), Model(name="b", load=load)])
    switch.next()

    switch.close()
    assert late.closed == 0
    gate.set()
    switch._loader.join()

    assert late.closed == 1


@pytest.mark.fault(33)
def test_a_batch_that_does_not_fit_is_translated_one_by_one_from_then_on():
    class Batching(Adds):
        max_batch = 4

        def batch(self, images):
            raise OutOfMemoryError("no memory")

    loads = []
    switch = ModelSwitch([Model(name="a", load=lambda: loads.append(1) or Batching(1))])

    assert [image[0, 0, 0] for image in switch.batch([IMAGE, IMAGE])] == [1, 1]

    assert switch.max_batch == 1
    assert len(loads) == 2


def test_all_that_is_loaded_is_closed():
    switch, controls, loaded = switch_of(1, 2)
    controls.do("next-engine")
    switch._loader.join()

    switch.close()

    assert [each.closed for each in loaded] == [1, 1]
