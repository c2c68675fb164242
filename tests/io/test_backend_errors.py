"""Errors of the backends are known from their modules, which another thread may be importing."""

import sys
from types import ModuleType

import pytest

from molstream.errors import RemoteError
from molstream.io import remote


class BackendError(Exception):
    """What the module of a backend defines in the end."""


@pytest.fixture
def half_imported(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A backend's module as another thread sees it in the middle of its import."""
    module = ModuleType("half_imported")
    monkeypatch.setitem(sys.modules, "half_imported", module)
    monkeypatch.setattr(remote, "BACKEND_ERRORS", (("half_imported", "BackendError"), ("never_imported", "Error")))
    return module


def test_a_module_that_is_being_imported_ends_nothing(half_imported):
    remote.write("memory://mine/one", b"1")
    assert remote.read("memory://mine/one") == b"1"
    with pytest.raises(RemoteError, match="cannot be read: broken"), remote._data_errors("memory://mine", "read"):
        raise OSError("broken")


def test_a_module_that_is_imported_meanwhile_counts(half_imported):
    def first_use() -> None:
        # As a backend does that is imported when it is first used: what raises is a whole module.
        half_imported.__dict__["BackendError"] = BackendError
        raise BackendError("down")

    with pytest.raises(RemoteError, match="cannot be read: down"), remote._data_errors("memory://mine", "read"):
        first_use()


def test_other_errors_stay_what_they_are(half_imported):
    with pytest.raises(BackendError), remote._data_errors("memory://mine", "read"):
        raise BackendError("a bug")
