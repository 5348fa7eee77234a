"""The pytest plugin: options for the suite, and the verdicts gathered into a report and a table.

It is loaded into every pytest session of a user who installed us, so importing it imports nothing heavy, and
it does nothing until a test of `conformance/test_contract.py` is there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

import pytest

from conformance import options, workers
from conformance.recorder import Recorder
from conformance.selection import ALL, TINY, chosen_checks, chosen_entries, chosen_models, sweeps
from conformance.settings import Settings
from conformance.verdict import Verdict


class Hooks:
    """What the plugin tells other plugins of the session, on the controlling process only."""

    def pytest_conformance_planned(self, count: int) -> None:
        """Hear how many verdicts will come."""

    def pytest_conformance_verdict(self, verdict: Verdict) -> None:
        """Hear a verdict as soon as it is known."""


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Make `Hooks` known to pytest."""
    pluginmanager.add_hookspecs(Hooks)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the suite's options; every one begins with `--conformance-`."""
    options.add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Refuse options that name nothing, and gather verdicts on the process that hears of all tests."""
    try:
        chosen = options.choice(config)
        # Only what was asked for is looked up: a session without the suite must not import its models.
        if chosen.models != TINY:
            chosen_models(chosen.models), chosen_entries(chosen.models)
        if chosen.checks != ALL:
            chosen_checks(chosen.checks)
        options.expected(config)
        _check_device(options.settings(config).device)
    except ValueError as error:  # its subclasses for a choice or a file of expected failures among them
        raise pytest.UsageError(str(error)) from None
    workers.begin(config)
    if not hasattr(config, "workerinput"):  # a pytest-xdist worker hands its reports to the controller
        config.pluginmanager.register(Recorder(config), "conformance-recorder")


def _check_device(name: str) -> None:
    if name != Settings.device:  # asks torch, whose import a session without the suite is spared
        from conformance.subject import device_named

        device_named(name)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> Optional[int]:
    """Let `-n auto` mean one worker for each GPU, where the device is cuda."""
    return workers.number_of_workers(options.settings(config).device)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Give each worker its GPU and its packages."""
    workers.prepare(node, options.settings(node.config).device)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> Optional[bool]:
    """Leave the sweep out where no model type was chosen: it would be one skipped test."""
    return True if collection_path.name == "test_every.py" and not sweeps(options.choice(config).models) else None
