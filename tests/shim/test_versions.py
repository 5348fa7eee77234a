"""Installed versions are told from their metadata, and pre-releases count as their release."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.version import Version

from shim.versions import in_range, installed, is_installed, python_version

ROOT = Path(__file__).parents[2]


@pytest.fixture
def versions(monkeypatch):
    """The distributions that are installed, as far as importlib.metadata knows."""
    known = {}

    def version(name):
        if name not in known:
            raise importlib.metadata.PackageNotFoundError(name)
        return known[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    return known


def test_an_installed_distribution_has_its_version(versions):
    versions["torch"] = "2.13.0+cpu"
    assert installed("torch") == Version("2.13.0+cpu")


def test_a_missing_distribution_has_no_version(versions):
    assert installed("torch") is None


@pytest.mark.parametrize("version", ["our-fork", "", None])
def test_a_version_that_cannot_be_read_is_none_and_in_no_range(versions, version):
    versions["torch"] = version
    assert installed("torch") is None
    assert in_range("torch", ">=0") is False
    assert is_installed("torch")


def test_a_build_in_place_without_metadata_is_installed(versions):
    assert is_installed("torch")
    assert not is_installed("no_such_distribution")


def test_python_is_told_by_two_numbers():
    assert python_version() == ".".join(map(str, sys.version_info[:2]))


@pytest.mark.parametrize("affected", ["<99", ">=0", "", "!=1"])
def test_a_missing_distribution_is_in_no_range(versions, affected):
    assert in_range("torch", affected) is False


@pytest.mark.parametrize(
    ("version", "affected", "inside"),
    [
        ("1.13.1", "<2.0", True),
        ("2.0", "<2.0", False),
        ("2.0.1", "<2.0", False),
        ("0.9.0", ">=0.9", True),
        ("0.8.2", ">=0.9", False),
        ("0.10.0", ">=0.9", True),  # by number, not by letter
        ("0.14.0", ">=0.9,<0.15", True),
        ("0.15.0", ">=0.9,<0.15", False),
        ("1.0", "", True),
    ],
)
def test_releases_are_in_range_by_number(versions, version, affected, inside):
    versions["peft"] = version
    assert in_range("peft", affected) is inside


@pytest.mark.parametrize("version", ["2.0.0a0", "2.0.0rc1", "2.0.0.dev20230101", "2.0.0a0+gitc263bd4"])
def test_a_pre_release_counts_as_the_release_it_leads_to(versions, version):
    versions["torch"] = version
    assert in_range("torch", "<2.0") is False
    assert in_range("torch", ">=2.0") is True


@pytest.mark.parametrize("version", ["1.13.1+cpu", "1.13.1+cu117", "1.13.1.post1", "1.13.1a0+936e930"])
def test_local_and_post_versions_count_as_their_release(versions, version):
    versions["torch"] = version
    assert in_range("torch", "<2.0") is True
    assert in_range("torch", "==1.13.1") is True
    assert in_range("torch", "<=1.13.1") is True


def test_the_environments_own_torch_is_found():
    import torch

    assert installed("torch").release == Version(torch.__version__).release


def test_asking_for_versions_imports_neither_torch_nor_peft():
    code = "import sys, shim.versions as v; v.in_range('torch', '<1'); print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=str(ROOT), capture_output=True, text=True, check=True)
    assert "shim.versions" in run.stdout.split()
    assert not {"torch", "peft", "transformers"} & set(run.stdout.split())
