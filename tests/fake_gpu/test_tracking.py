"""The fit of landmarks on a fake GPU: clips are solved together there, and no step waits for it."""

from __future__ import annotations

from tests.fake_gpu.conditions import NEEDS

pytestmark = NEEDS


def test_steps_of_the_fit_stay_on_the_device_and_never_wait(ran):
    few, many = (ran("tests.fake_gpu.tracking")[steps] for steps in ("9", "15"))
    assert many["devices"] == ["cuda:0"] and many["dtypes"] == ["float64"]
    assert many["launches"] > 1.4 * few["launches"], "steps are made on the device"
    assert many["waits"] == few["waits"] and many["copies"] == few["copies"], "none of them waits or copies"
    assert sum(few["waits"].values()) < 30
