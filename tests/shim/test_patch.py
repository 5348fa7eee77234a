"""Replacements go in all or none, and the very objects that they displaced come back."""

import importlib.metadata
import re
import threading
import time
import types

import pytest

import shim
from shim.errors import PatchError
from shim.patch import Applied, Patch, Replacement, with_subclasses


class Parent:
    def inherited(self):
        return "parent"


def owner():
    """A class with one attribute of every kind that is not what `getattr` gives."""

    class Owner(Parent):
        value = 1

        def method(self):
            return "method"

        @staticmethod
        def static():
            return "static"

        @classmethod
        def of_class(cls):
            return cls.__name__

        @property
        def asked(self):
            return "asked"

    return Owner


KINDS = ["value", "method", "static", "of_class", "asked"]


class Refusing(type):
    """The class of owners that take no attribute named `refused`."""

    def __setattr__(cls, name, value):
        if name == "refused":
            raise TypeError("refused is read-only here")
        super().__setattr__(name, value)


def refusing_owner():
    class Owner(metaclass=Refusing):
        first = "first"

    return Owner


def replacements(target, names=KINDS):
    return [Replacement(target, name, object()) for name in names]


def raw(target):
    """Every attribute of `target` itself, unbound: what must come back, compared by identity."""
    return {name: id(value) for name, value in vars(target).items()}


def test_added_replacements_are_in_place():
    target = owner()
    wanted = replacements(target)
    Applied().add(wanted)
    assert all(vars(target)[r.attribute] is r.value for r in wanted)


@pytest.mark.parametrize("name", KINDS)
def test_restore_puts_back_the_very_raw_object(name):
    target = owner()
    before = vars(target)[name]
    applied = Applied()
    applied.add(replacements(target, [name]))
    assert vars(target)[name] is not before
    applied.restore()
    assert vars(target)[name] is before


def test_restored_staticmethods_classmethods_and_properties_still_bind():
    target = owner()
    applied = Applied()
    applied.add(replacements(target))
    applied.restore()
    assert (target().static(), target.of_class(), target().asked) == ("static", "Owner", "asked")


def test_a_module_is_an_owner_too():
    import string

    before = string.digits
    applied = Applied()
    applied.add([Replacement(string, "digits", "01")])
    assert string.digits == "01"
    applied.restore()
    assert string.digits is before


def test_an_attribute_that_was_absent_is_deleted_again():
    target = owner()
    before = raw(target)
    applied = Applied()
    applied.add(replacements(target, ["brand_new"]))
    assert "brand_new" in vars(target)
    applied.restore()
    assert "brand_new" not in vars(target)
    assert raw(target) == before


def test_an_inherited_attribute_stays_inherited():
    target = owner()
    applied = Applied()
    applied.add([Replacement(target, "inherited", lambda self: "ours")])
    assert (target().inherited(), Parent().inherited()) == ("ours", "parent")
    applied.restore()
    assert "inherited" not in vars(target)
    assert target().inherited() == "parent"


def test_an_attribute_that_was_none_is_not_taken_for_an_absent_one():
    target = owner()
    target.value = None
    applied = Applied()
    applied.add(replacements(target, ["value"]))
    applied.restore()
    assert vars(target)["value"] is None


def test_a_refused_attribute_takes_the_earlier_ones_back():
    target, refusing = owner(), refusing_owner()
    before = raw(target)
    applied = Applied()
    with pytest.raises(shim.PatchError, match=r"refused is read-only here.*nothing was changed"):
        applied.add([*replacements(target), Replacement(refusing, "refused", 2), *replacements(target)])
    assert raw(target) == before
    assert "refused" not in vars(refusing)


def test_a_failed_add_leaves_the_earlier_adds_in_place():
    target, refusing = owner(), refusing_owner()
    before = raw(target)
    applied = Applied()
    applied.add(replacements(target, ["method"]))
    with pytest.raises(shim.PatchError):
        applied.add([*replacements(target, ["static", "brand_new"]), Replacement(refusing, "refused", 2)])
    changed = {name for name, value in raw(target).items() if before.get(name) != value}
    assert changed == {"method"}
    applied.restore()
    assert raw(target) == before


def test_the_cause_of_a_failed_add_is_kept():
    with pytest.raises(shim.PatchError) as caught:
        Applied().add([Replacement(refusing_owner(), "refused", 2)])
    assert isinstance(caught.value.__cause__, TypeError)


def test_an_owner_without_a_dictionary_is_a_patch_error():
    target = owner()
    before = raw(target)
    with pytest.raises(shim.PatchError):
        Applied().add([*replacements(target), Replacement(object(), "anything", 1)])
    assert raw(target) == before


def test_restore_runs_newest_first():
    order = []

    class Recording(type):
        def __setattr__(cls, name, value):
            order.append(name)
            super().__setattr__(name, value)

    class Owner(metaclass=Recording):
        first, second, third = 1, 2, 3

    applied = Applied()
    applied.add(replacements(Owner, ["first", "second"]))
    applied.add(replacements(Owner, ["third"]))
    assert order == ["first", "second", "third"]
    order.clear()
    applied.restore()
    assert order == ["third", "second", "first"]


def test_restoring_twice_is_restoring_once():
    target = owner()
    applied = Applied()
    applied.add(replacements(target, ["method"]))
    applied.restore()
    target.method = somebody_elses = object()
    applied.restore()
    assert vars(target)["method"] is somebody_elses


@pytest.mark.parametrize("patched_over", ["value", "static", "asked"])
def test_restore_refuses_over_somebody_elses_patch_and_changes_nothing(patched_over):
    target = owner()
    applied = Applied()
    applied.add(replacements(target))
    setattr(target, patched_over, object())
    before = raw(target)
    with pytest.raises(shim.PatchError, match=rf"Owner\.{patched_over} .*patched again.*shim\.uninstall"):
        applied.restore()
    assert raw(target) == before


def test_restore_refuses_where_somebody_deleted_the_replacement():
    target = owner()
    applied = Applied()
    applied.add(replacements(target))
    del target.method
    before = raw(target)
    with pytest.raises(shim.PatchError, match=r"Owner\.method"):
        applied.restore()
    assert raw(target) == before


def test_restore_works_once_the_later_patch_is_undone():
    target = owner()
    before = raw(target)
    applied = Applied()
    ours = replacements(target)
    applied.add(ours)
    target.method = object()
    with pytest.raises(shim.PatchError):
        applied.restore()
    target.method = next(r.value for r in ours if r.attribute == "method")
    applied.restore()
    assert raw(target) == before


def test_a_failing_add_does_not_take_back_what_another_thread_adds_meanwhile():
    """Without one lock, the second thread's replacement would lie above the first's mark, and go with it."""
    target, applied = owner(), Applied()
    theirs = Replacement(target, "static", object())
    other = threading.Thread(target=applied.add, args=([theirs],))

    class Slow(type):
        def __setattr__(cls, name, value):
            other.start()
            time.sleep(0.2)
            raise TypeError("refused, slowly")

    class SlowOwner(metaclass=Slow):
        pass

    method = vars(target)["method"]
    with pytest.raises(shim.PatchError, match="slowly"):
        applied.add([Replacement(target, "method", object()), Replacement(SlowOwner, "x", 1)])
    other.join(timeout=10)
    assert not other.is_alive()
    assert vars(target)["method"] is method
    assert vars(target)["static"] is theirs.value


def test_what_many_threads_add_is_all_restored():
    target, applied = owner(), Applied()
    before = raw(target)
    barrier = threading.Barrier(8)

    def add(number):
        barrier.wait(timeout=10)
        for index in range(25):
            applied.add(replacements(target, [f"new_{number}_{index}"]))

    threads = [threading.Thread(target=add, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert len(vars(target)) == len(before) + 8 * 25
    applied.restore()
    assert raw(target) == before


def patch(affected="<2.0", distribution="torch"):
    return Patch(
        name="toy",
        defect="none",
        breakpoint="owner/repo#1",
        distribution=distribution,
        affected=affected,
        clauses=("S6",),
        check="a_check",
        is_broken=lambda: True,
        replacements=list,
    )


@pytest.mark.parametrize(
    ("version", "affected", "expected"),
    [
        ("1.13.1", "<2.0", True),
        ("2.0.0", "<2.0", False),
        ("2.0.0", ">=2.0", True),
        ("0.14.0", ">=0.9,<0.15", True),
        ("0.8.2", ">=0.9,<0.15", False),
        ("0.15.0", ">=0.9,<0.15", False),
    ],
)
def test_a_patch_is_expected_within_its_range(monkeypatch, version, affected, expected):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    assert patch(affected).expected is expected


def test_a_patch_for_a_missing_distribution_is_not_expected():
    assert patch(">=0", "no-such-distribution").expected is False


def test_a_patch_introduces_itself_with_version_and_upstream(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", {"torch": "1.13.1"}.__getitem__)
    assert str(patch()) == "toy (torch 1.13.1, upstream: owner/repo#1)"


def test_a_patch_cannot_be_changed():
    with pytest.raises(AttributeError):
        patch().name = "another"


def test_a_replacement_by_a_function_has_the_names_of_what_it_displaces():
    def anything():
        return "anything"

    target = owner()
    target.method.__module__ = "elsewhere"
    made = Replacement.by(target, "method", anything)
    assert (made.owner, made.attribute, made.value) == (target, "method", anything)
    assert anything.__name__ == "method"
    assert anything.__qualname__ == target.method.__qualname__ == "owner.<locals>.Owner.method"
    assert anything.__module__ == "elsewhere"


def test_a_replacement_of_nothing_is_named_after_its_owner():
    def anything():
        return "anything"

    Replacement.by(Parent, "newcomer", anything)
    assert (anything.__name__, anything.__qualname__, anything.__module__) == ("newcomer", "Parent.newcomer", __name__)


def test_every_class_that_is_derived_is_found_once():
    class Left(Parent):
        pass

    class Right(Parent):
        pass

    class Both(Left, Right):
        pass

    found = with_subclasses(Parent)
    assert found[0] is Parent
    assert {Left, Right, Both} <= set(found)
    assert len(found) == len(set(found))


def test_the_attribute_of_each_owner_is_watched():
    first, second = owner(), owner()
    applied = Applied()
    applied.add([*replacements(first, ["value"]), *replacements(second, ["value"])])
    first.value = "somebody else's"
    with pytest.raises(PatchError, match=r"Owner\.value is \"somebody"):
        applied.restore()


def test_an_attribute_that_somebody_deleted_is_not_restored_though_ours_was_none():
    target = owner()
    applied = Applied()
    applied.add([Replacement(target, "value", None)])
    del target.value
    with pytest.raises(PatchError):
        applied.restore()


def test_the_place_of_a_later_patch_is_named_by_what_its_owner_is():
    module, nameless = types.ModuleType("some.module"), types.SimpleNamespace()
    places = ((owner(), "owner.<locals>.Owner.x"), (module, "some.module.x"), (nameless, "namespace(x=2).x"))
    for target, place in places:
        applied = Applied()
        applied.add([Replacement(target, "x", 1)])
        target.x = 2
        with pytest.raises(PatchError, match=f"^{re.escape(place)} is 2, but should be"):
            applied.restore()
        del target.x
