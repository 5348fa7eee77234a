"""`python -m conformance bench`: options reach the bench that is asked for, and everything is asked for by default."""

import json

import pytest

from conformance.__main__ import main
from conformance.bench import adapters, command
from conformance.bench.measurements import Row


@pytest.fixture
def asked(monkeypatch):
    """Return what each bench was called with; none of them measures anything."""
    calls = []
    for name in command.BENCHES:

        def measure(quick, seconds, name=name):
            calls.append((name, quick, seconds))
            return [Row(f"{name}: shim", 1.5, "x single", 2.0, floor=1.25)]

        monkeypatch.setitem(command.BENCHES, name, measure)
    return calls


def test_everything_is_measured_by_default(asked, capsys):
    assert main(["bench"]) == 0
    assert asked == [(name, False, 3.0) for name in command.BENCHES]
    assert "(at most 2, floor 1.25)" in capsys.readouterr().out


def test_quick_is_short(asked):
    assert main(["bench", "--quick"]) == 0
    assert {quick for _, quick, _ in asked} == {True}
    assert {seconds for *_, seconds in asked} == {0.5}


def test_the_device_is_that_of_the_kernels(asked, monkeypatch, capsys):
    given = []
    monkeypatch.setitem(command.BENCHES, "kernels", lambda *args, **more: given.append(more) or [Row("a: b", 1.0, "x")])
    assert main(["bench", "kernels", "--device", "cpu"]) == 0
    assert main(["bench", "kernels"]) == 0
    assert given == [{"device": "cpu"}, {}]
    assert main(["bench", "adapters", "--device", "cuda"]) == 2
    assert not asked
    assert "bench kernels" in capsys.readouterr().err


def test_one_bench_is_measured_and_written(asked, tmp_path):
    assert main(["bench", "products", "--seconds", "1", "--json", str(tmp_path / "bench.json")]) == 0
    assert asked == [("products", False, 1.0)]
    written = json.loads((tmp_path / "bench.json").read_text())
    assert written["rows"] == [
        {"name": "products: shim", "value": 1.5, "unit": "x single", "target": 2.0, "spread": "", "floor": 1.25}
    ]
    assert written["packages"]["torch"]


def test_a_users_model_is_measured_instead(asked, capsys):
    spec = "tests.conformance.bench.test_own:small"
    assert main(["bench", "--model", spec, "--adapters", "a1,a0", "--seconds", "0"]) == 0
    assert not asked
    assert "2 adapters: shim" in capsys.readouterr().out


def test_a_model_that_is_not_there_is_wrong_usage(asked, capsys):
    assert main(["bench", "--model", "no.such:build"]) == 2
    assert "no.such:build" in capsys.readouterr().err


def test_plots_without_what_draws_them_are_wrong_usage(asked, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None)
    assert main(["bench", "--plots", str(tmp_path)]) == 2
    assert not asked
    assert "pip install matplotlib" in capsys.readouterr().err


def test_the_options_reach_the_measurement(monkeypatch, capsys):
    given = {}
    monkeypatch.setattr(
        adapters, "measure", lambda **options: given.update(options) or [Row("a case", 1.1, "x single")]
    )
    assert main(["bench", "adapters", "--quick", "--seconds", "1"]) == 0
    assert given == {"quick": True, "seconds": 1.0, "layers": 4}
    assert "a case" in capsys.readouterr().out
