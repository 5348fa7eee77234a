import pytest

import shim


@pytest.fixture
def installed_shim():
    """The shim in place for one test."""
    statuses = shim.install()
    yield statuses
    shim.uninstall()


@pytest.fixture
def split_only(monkeypatch):
    """Let no call go in one pass, so that the split route is what is tested."""
    from shim.routing import route
    from shim.routing.one_pass import NotByLayers

    def unroutable(*_):
        raise NotByLayers("one pass is switched off")

    monkeypatch.setattr(route, "run_one_pass", unroutable)
    monkeypatch.setattr(route, "run_one_pass_generate", unroutable)
