"""The arithmetic of a machine is measured once, remembered, and the same for all who ask."""

from __future__ import annotations

import json
import multiprocessing
import os
import time

import pytest
import torch

from zhclip_openclip import _precision
from zhclip_openclip._errors import ZhclipError
from zhclip_openclip.commands.doctor import _arithmetic as finding
from zhclip_openclip.features import _speeds, arithmetic, fingerprint, linear
from zhclip_openclip.features._speeds import BF16, ONEDNN, PYTORCH
from zhclip_openclip.features.arithmetic import Arithmetic


def turns(onednn: float = 1.0, bf16: float | None = None, number: int = 9) -> _speeds.Turns:
    """Of ways that are so many times as fast as PyTorch's own."""
    ways = {PYTORCH: 1.0, ONEDNN: onednn} | ({BF16: bf16} if bf16 else {})
    return {layer: {way: [1 / speed] * number for way, speed in ways.items()} for layer in _speeds.LAYERS}


class Machine:
    """speeds: of the machine that is measured. measured: how often it was."""

    def __init__(self):
        self.speeds, self.measured = turns(), 0

    def measure(self, onednn, bf16):
        self.measured += 1
        return self.speeds


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """One of no maker in particular, without units for bf16, whose cache folder is empty."""
    found = Machine()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv(arithmetic.VARIABLE, "")
    monkeypatch.delenv(linear.VARIABLE, raising=False)
    for name in _precision._LIMITS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(_speeds, "measure", found.measure)
    monkeypatch.setattr(arithmetic, "_amd_with_avx512", lambda: False)
    monkeypatch.setattr(_precision, "cpu_has_bf16", lambda: False)
    monkeypatch.setattr(arithmetic, "users_folder", lambda: tmp_path / "zhclip-openclip" / "features")
    another_process()
    yield found
    another_process()


def another_process():
    arithmetic._kept_or_measured.cache_clear()


# ---------------------------------------------------------------- deciding


@pytest.mark.parametrize(
    ("expected", "onednn", "found"),
    [
        (False, 1.22, True),
        (False, 1.09, False),
        (False, 0.9, False),
        (True, 1.22, True),
        (True, 0.92, True),  # MKL 1.087 times as fast
        (True, 0.9, False),
    ],
)
def test_what_is_expected_stands_unless_the_other_is_clearly_faster(expected, onednn, found):
    assert arithmetic.decide(Arithmetic(expected, False), turns(onednn)) == (found, False)


def test_most_turns_have_to_say_so():
    """A median of five turns out of nine is noise."""
    given = turns()
    for layer in given.values():
        layer[ONEDNN] = [0.5] * 5 + [1.0] * 4
    assert arithmetic.decide(Arithmetic(False, False), given) == (False, False)
    for layer in given.values():
        layer[ONEDNN] = [0.5] * 6 + [1.0] * 3
    assert arithmetic.decide(Arithmetic(False, False), given) == (True, False)


def test_layers_count_together():
    given = turns(onednn=1.3)
    given["text tower"][ONEDNN] = [1.0] * 9
    assert arithmetic.decide(Arithmetic(False, False), given)[0]
    given["text tower"][ONEDNN] = [1.3] * 9
    assert not arithmetic.decide(Arithmetic(False, False), given)[0]


def test_bf16_is_compared_with_the_faster_fp32():
    units = Arithmetic(False, True)
    assert arithmetic.decide(units, turns(1.0, bf16=2.5)) == (False, True)
    assert arithmetic.decide(units, turns(1.0, bf16=0.95)) == (False, True), "not clearly slower"
    assert arithmetic.decide(units, turns(1.0, bf16=0.5)) == (False, False)
    assert arithmetic.decide(units, turns(1.5, bf16=1.2)) == (True, False)
    assert arithmetic.decide(Arithmetic(False, False), turns(1.0, bf16=9.0)) == (False, False), "without units"


def test_a_pytorch_without_onednn():
    given = {layer: {PYTORCH: [1.0] * 9} for layer in _speeds.LAYERS}
    assert arithmetic.decide(Arithmetic(True, False), given) == (False, False)


def test_the_maker_alone_does_not_decide(machine, monkeypatch):
    monkeypatch.setattr(arithmetic, "_amd_with_avx512", lambda: True)
    assert arithmetic.rule().onednn
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert not arithmetic.rule().onednn
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    machine.speeds = turns(onednn=0.8)
    assert not arithmetic.chosen().onednn


# ---------------------------------------------------------------- remembering


def test_measured_once(machine):
    machine.speeds = turns(onednn=1.3)
    assert arithmetic.chosen().onednn and linear.used("cpu")
    machine.speeds = turns(onednn=0.5)
    another_process()
    assert arithmetic.chosen().onednn and machine.measured == 1
    kept = json.loads(arithmetic.kept_at().read_text("utf-8"))
    assert kept["speeds"]["image tower"] == {ONEDNN: 1.3} and kept["of"]["torch"] == torch.__version__
    assert [path.name for path in arithmetic.kept_at().parent.iterdir()] == [arithmetic.kept_at().name]


def test_another_machine_or_pytorch_has_a_decision_of_its_own(machine, monkeypatch):
    places = [arithmetic.kept_at()]
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS"):
        monkeypatch.setenv(name, "AVX2")
        places.append(arithmetic.kept_at())
        monkeypatch.delenv(name)
    for key in ("processor", "instructions", "torch", "build"):
        monkeypatch.setattr(arithmetic, "_machine", lambda key=key: {**machine_facts, key: "another"})
        places.append(arithmetic.kept_at())
    assert len(set(places)) == len(places) - 1  # the two names of oneDNN's limit mean the same
    arithmetic.chosen()
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    arithmetic.chosen()
    assert machine.measured == 2


machine_facts = arithmetic._machine()


def test_the_number_of_threads_changes_nothing(machine):
    """One process with two threads and two processes with one give the same bits."""
    threads, place = torch.get_num_threads(), arithmetic.kept_at()
    try:
        torch.set_num_threads(threads + 1)
        assert arithmetic.kept_at() == place
    finally:
        torch.set_num_threads(threads)


def test_features_have_another_name_in_the_cache(machine):
    names = []
    for onednn in (True, False):
        with arithmetic.taken(Arithmetic(onednn, bf16=False)):
            names.append(fingerprint.precision("cpu", amp=False))
    assert names[0] != names[1]


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"onednn": 1, "bf16": true, "speeds": {}, "measured": ""}', "{}"])
def test_a_damaged_file_is_measured_again(machine, damage):
    machine.speeds = turns(onednn=1.3)
    place = arithmetic.kept_at()
    place.parent.mkdir(parents=True)
    place.write_text(damage)
    assert arithmetic.chosen().onednn and machine.measured == 1
    another_process()
    assert arithmetic.chosen().onednn and machine.measured == 1


def test_where_nothing_can_be_kept_the_rule_decides(machine, tmp_path, monkeypatch):
    machine.speeds = turns(onednn=1.3)
    (tmp_path / "zhclip-openclip").write_text("not a folder")
    decision = arithmetic.chosen()
    assert not decision.onednn and machine.measured == 0 and "cannot be written" in decision.why
    assert "cannot be written" in arithmetic.known()[0].why
    with pytest.raises(ZhclipError, match="cannot be written .*, so nothing was measured"):
        arithmetic.measure_again()

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(arithmetic, "users_folder", homeless)
    assert "no home folder" in arithmetic.chosen().why and "no home folder" in arithmetic.known()[0].why
    with pytest.raises(ZhclipError, match="set XDG_CACHE_HOME"):
        arithmetic.measure_again()


def test_the_disk_is_full_when_it_is_to_be_kept(machine, monkeypatch):
    """What other processes cannot know this one does not use."""
    machine.speeds = turns(onednn=1.3)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("zhclip_openclip._files._to_the_disk", full)
    assert not arithmetic.chosen().onednn and list(arithmetic.kept_at().parent.iterdir()) == []


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork")
def test_processes_that_measure_at_once_take_one_decision(machine, monkeypatch, tmp_path):
    def slowly(onednn, bf16):
        with open(tmp_path / "measured", "a") as file:
            file.write("x")
        time.sleep(0.3)
        return turns(onednn=1.3 if os.getpid() % 2 else 0.5)  # neighbours in number find different things

    monkeypatch.setattr(_speeds, "measure", slowly)
    monkeypatch.setattr(linear, "operation", lambda: None)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=lambda: queue.put(arithmetic.chosen().onednn)) for _ in range(4)]
    for process in processes:
        process.start()
    found = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert len(set(found)) == 1 and (tmp_path / "measured").read_text() == "x"


# ---------------------------------------------------------------- who asks


def test_processes_of_one_evaluation_take_the_first_ones(machine):
    machine.speeds = turns(onednn=1.3)
    told = [arithmetic.offered(first) for first in (True, False, False)]
    assert machine.measured == (0 if torch.cuda.is_available() else 1)
    first = Arithmetic(True, True)
    assert arithmetic.agreed([(first, True), (None, True)]) == first
    assert arithmetic.agreed([(first, True), (None, False)]) == Arithmetic(True, False), "one has no units for bf16"
    assert arithmetic.agreed([(None, True), (None, True)]) is None, "on GPUs"
    with arithmetic.taken(arithmetic.agreed(told)):
        assert arithmetic.chosen().onednn == (not torch.cuda.is_available())
    with arithmetic.taken(first):
        assert arithmetic.chosen() == first and _precision.use_amp("cpu", True) and linear.used("cpu")
    with arithmetic.taken(None):
        assert arithmetic.chosen().onednn


def test_a_gpu_needs_no_measurement(machine):
    assert _precision.use_amp("cuda", True) and not _precision.use_amp("cpu", False) and not linear.used("cuda")
    assert machine.measured == 0


def test_switched_off(machine, monkeypatch):
    monkeypatch.setenv(arithmetic.VARIABLE, "0")
    assert "not measured" in arithmetic.chosen().why and machine.measured == 0
    monkeypatch.setenv(arithmetic.VARIABLE, "no")
    with pytest.raises(ZhclipError, match="ZHCLIP_MEASURE=no: neither 0 nor 1"):
        arithmetic.chosen()
    assert finding().problem


def test_the_doctor_measures_when_it_is_told_to(machine):
    assert "by rule until the first evaluation" in finding().state and machine.measured == 0
    machine.speeds = turns(onednn=1.3)
    arithmetic.chosen()
    state = finding().state
    assert state.startswith("fp32 by default, fp32 products by oneDNN (measured on ") and "1.30 x in the image" in state
    assert "`zhclip doctor --measure` measures it again" in state and machine.measured == 1
    machine.speeds = turns(onednn=0.7)
    arithmetic.measure_again()
    assert machine.measured == 2 and "as PyTorch computes them (measured" in finding().state
    assert not arithmetic.chosen().onednn and machine.measured == 2


def test_in_words():
    assert arithmetic.described("cpu", True, False) == "bfloat16 autocast on cpu"
    assert arithmetic.described("cpu", False, True) == "fp32 on cpu, linear layers by oneDNN"
    assert arithmetic.described("cuda:0", False, False) == "fp32 on cuda"


def test_measured_for_real():
    """All ways take time, and nothing of the process is changed. What is faster is no matter of tests."""
    threads, numbers = torch.get_num_threads(), torch.get_rng_state()
    found = _speeds.measure(linear.operation(), bf16=_precision.cpu_has_bf16(), turns=1)
    assert list(found) == ["image tower", "text tower"]
    for ways in found.values():
        assert PYTORCH in ways and (ONEDNN in ways) is (linear.operation() is not None)
        assert all(len(seconds) == 1 and seconds[0] > 0 for seconds in ways.values())
    assert torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), numbers)
