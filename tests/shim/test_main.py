"""`python -m shim status` and `run`: what the user sees, and what the script sees."""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import shim
from shim.__main__ import environment_text, main, status_text
from shim.patch import Patch
from shim.patches import catalogue
from shim.versions import CELLS

ROOT = Path(__file__).parents[2]

# What a script can see of how it was started.
SEE = """\
import json, os, sys
import shim
with open(os.environ["SEEN"], "w") as seen:
    json.dump({
        "applied": [s.patch.name for s in shim.status() if s.applied],
        "argv": sys.argv, "path0": sys.path[0], "name": __name__, "file": __file__,
        "is_main": sys.modules["__main__"].__dict__ is globals(),
    }, seen)
"""


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    """`run` takes the interpreter over; give it back, with the shim out of place."""
    monkeypatch.delenv("SHIM_DISABLE", raising=False)
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "path", list(sys.path))
    shim.uninstall()
    yield
    shim.uninstall()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the script, and where it writes what it saw."""
    monkeypatch.setenv("SEEN", str(tmp_path / "seen.json"))
    (tmp_path / "see_main.py").write_text(SEE)
    return tmp_path


def seen(folder):
    return json.loads((folder / "seen.json").read_text())


def python(*arguments, cwd, shim_disable="1"):
    """Run python; all patches are left out unless told, so that torch is not imported."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SHIM_DISABLE": shim_disable}
    return subprocess.run([sys.executable, *arguments], cwd=str(cwd), env=environment, capture_output=True, text=True)


def toy(affected):
    return Patch("toy", "a defect", "owner/repo#1", "torch", affected, ("S6", "R1"), "a_check", lambda: True, list)


def test_status_has_one_paragraph_a_patch_and_succeeds(capsys):
    assert main(["status"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    environment, _, patches = out.partition("\n\n")
    assert environment == environment_text()
    heads = [line for line in patches.splitlines() if not line.startswith(" ")]
    assert [head.split(":")[0] for head in heads] == [patch.name for patch in catalogue()]
    for patch, head in zip(catalogue(), heads):
        assert head.startswith(f"{patch.name}: {'needed' if patch.expected else 'not needed'} (")
        for words in (patch.defect, patch.breakpoint, ", ".join(patch.clauses), f"--checks {patch.check}\n"):
            assert words in out
    assert "note:" not in out


@pytest.fixture
def versions(monkeypatch):
    """What importlib.metadata says of torch, transformers and peft; the cell is one of the matrix."""
    cell = CELLS["c10"]
    known = {"torch": f"{cell.torch}+cu121", "transformers": cell.transformers, "peft": cell.peft}
    monkeypatch.setattr(importlib.metadata, "version", lambda name: known[name])
    monkeypatch.setattr("shim.versions.python_version", lambda: cell.python)
    return known


def test_the_environment_is_told_with_its_cell(versions):
    assert environment_text().endswith("torch 2.2.2+cu121, transformers 4.47.1, peft 0.14.0: c10 of the tested matrix")


@pytest.mark.parametrize(
    ("distribution", "version"), [("torch", "2.2.3"), ("torch", "2.2.2.dev1"), ("peft", "99"), ("transformers", "fork")]
)
def test_an_environment_that_was_not_tested_says_so(versions, distribution, version):
    versions[distribution] = version
    assert "not in the tested matrix; the probes" in environment_text()


def test_a_version_that_cannot_be_read_is_said_to_be(versions):
    versions["peft"] = "our-fork"
    assert "peft of a version that cannot be read" in environment_text()


def test_status_installs_nothing(capsys):
    main(["status"])
    assert not any(status.applied for status in shim.status())


def test_status_says_what_is_applied_once_installed(capsys):
    statuses = shim.install()
    assert main(["status"]) == 0
    out = capsys.readouterr().out
    assert out.count(": needed, applied (the defect is here)") == sum(s.applied for s in statuses) > 0
    assert out.count(": not needed (upstream is right here)") == sum(not s.applied for s in statuses)


def test_status_says_that_a_patch_was_left_out_and_imports_no_torch(tmp_path):
    run = python("-X", "importtime", "-m", "shim", "status", cwd=tmp_path)
    assert run.returncode == 0
    assert run.stdout.count(": not decided (left out by SHIM_DISABLE)") == len(catalogue())
    imported = {line.split("|")[-1].strip() for line in run.stderr.splitlines() if "|" in line}
    assert "shim" in imported
    assert not {"torch", "peft"} & imported


@pytest.mark.parametrize(
    ("needed", "affected", "words"),
    [(True, ">99", "torch is outside >99"), (False, ">=0", "torch is inside >=0")],
)
def test_a_probe_that_disagrees_with_the_range_is_noted(needed, affected, words):
    patch = toy(affected)
    text = status_text([shim.PatchStatus(patch, needed, patch.expected, needed, "reason")])
    assert "the probe disagrees with the measured range" in text
    assert words in text


@pytest.mark.parametrize(("needed", "affected"), [(True, ">=0"), (False, ">99"), (None, ">=0")])
def test_a_probe_that_agrees_or_did_not_run_is_not_noted(needed, affected):
    patch = toy(affected)
    text = status_text([shim.PatchStatus(patch, needed, patch.expected, bool(needed), "reason")])
    assert "note" not in text
    assert "clauses:  S6, R1" in text


def test_a_script_sees_the_shim_installed_and_itself_as_main(folder):
    script = str(folder / "see_main.py")
    assert main(["run", script, "--flag", "-m", "x"]) == 0
    assert seen(folder) == {
        "applied": [patch.name for patch in catalogue() if patch.expected],
        "argv": [script, "--flag", "-m", "x"],
        "path0": str(folder),
        "name": "__main__",
        "file": script,
        "is_main": True,
    }


def test_a_module_sees_the_shim_installed_and_itself_as_main(folder, monkeypatch):
    monkeypatch.syspath_prepend(str(folder))
    assert main(["run", "-m", "see_main", "--flag", "status"]) == 0
    found = seen(folder)
    assert found["applied"] == [patch.name for patch in catalogue() if patch.expected]
    assert found["argv"] == [str(folder / "see_main.py"), "--flag", "status"]
    assert (found["name"], found["is_main"], found["path0"]) == ("__main__", True, str(folder))


def test_a_package_is_run_by_its_main_module(folder, monkeypatch):
    (folder / "package").mkdir()
    (folder / "package" / "__init__.py").write_text("")
    (folder / "package" / "__main__.py").write_text("from package import helper\n" + SEE)
    (folder / "package" / "helper.py").write_text("")
    monkeypatch.syspath_prepend(str(folder))
    assert main(["run", "-m", "package", "1"]) == 0
    assert seen(folder)["argv"] == [str(folder / "package" / "__main__.py"), "1"]


@pytest.mark.parametrize("how", [["see_main.py"], ["-m", "see_main"]], ids=["script", "module"])
def test_arguments_and_path_are_those_that_python_gives(folder, how):
    script_or_module = [*how, "run", "-m", "--help"]
    assert python(*script_or_module, cwd=folder).returncode == 0
    expected = seen(folder)
    (folder / "seen.json").unlink()
    assert python("-m", "shim", "run", *script_or_module, cwd=folder).returncode == 0
    observed = seen(folder)
    expected.pop("file")  # absolute from python 3.9 on, but not in runpy
    observed.pop("file")
    assert observed == expected


def test_a_script_in_another_folder_imports_its_neighbours(tmp_path):
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "neighbour.py").write_text("word = 'found'\n")
    (tmp_path / "project" / "script.py").write_text("import neighbour; print(neighbour.word)\n")
    run = python("-m", "shim", "run", "project/script.py", cwd=tmp_path)
    assert (run.stdout.strip(), run.returncode) == ("found", 0)


ENDS = {
    "nothing": ("", 0, ""),
    "exit with a number": ("import sys; sys.exit(3)", 3, ""),
    "exit with nothing": ("import sys; sys.exit()", 0, ""),
    "exit with words": ("import sys; sys.exit('that is all')", 1, "that is all"),
    "exception": ("raise ValueError('wrong value')", 1, "ValueError: wrong value"),
}


@pytest.mark.parametrize("how", [["script.py"], ["-m", "script"]], ids=["script", "module"])
@pytest.mark.parametrize("end", sorted(ENDS))
def test_a_run_ends_as_with_python(tmp_path, how, end):
    code, status, last = ENDS[end]
    (tmp_path / "script.py").write_text(f"print('started', flush=True)\n{code}\n")
    plain = python(*how, cwd=tmp_path)
    run = python("-m", "shim", "run", *how, cwd=tmp_path)
    assert (run.returncode, run.stdout, run.stderr.splitlines()[-1:]) == (
        plain.returncode,
        plain.stdout,
        plain.stderr.splitlines()[-1:],
    )
    assert (run.returncode, "".join(run.stderr.splitlines()[-1:])) == (status, last)


def test_an_exception_reaches_the_caller_as_it_is(folder):
    script = folder / "fails.py"
    script.write_text("raise KeyError('mine')")
    with pytest.raises(KeyError, match="mine"):
        main(["run", str(script)])
    script.write_text("raise SystemExit(5)")
    with pytest.raises(SystemExit) as caught:
        main(["run", str(script)])
    assert caught.value.code == 5


@pytest.mark.parametrize("how", [["no_such_script.py"], ["-m", "no_such_module"]])
def test_what_cannot_be_found_fails(tmp_path, how):
    run = python("-m", "shim", "run", *how, cwd=tmp_path)
    assert run.returncode != 0
    assert how[-1] in run.stderr


WRONG = [[], ["run"], ["run", "-m"], ["status", "extra"], ["install"], ["--wrong"], ["-h", "status"]]


@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
def test_wrong_usage_gives_2_and_says_how_on_stderr(arguments, capsys):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "python -m shim run SCRIPT" in err
    assert not any(status.applied for status in shim.status())


def test_wrong_usage_is_the_exit_status_too(tmp_path):
    assert python("-m", "shim", "walk", cwd=tmp_path).returncode == 2


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_is_no_error(flag, capsys):
    assert main([flag]) == 0
    out, err = capsys.readouterr()
    assert "python -m shim status" in out
    assert err == ""


def test_without_arguments_main_takes_those_of_the_command_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["shim", "--help"])
    assert main() == 0
    assert "usage" in capsys.readouterr().out
