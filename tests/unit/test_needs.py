"""What a test says it needs of the kernel decides whether it runs, is skipped or fails."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Final

import pytest

from tests import conftest

CAN: Final = {"namespaces": True, "veth": True, "nft": False, "sit": False}

TESTS: Final = """
    import pytest

    @pytest.fixture
    def costly():
        print("set up")

    @pytest.mark.kernel
    def test_that_needs_what_is_there(): pass

    @pytest.mark.needs("nft")
    def test_that_needs_nft(costly): print("body")

    @pytest.mark.needs("sit")
    def test_that_needs_sit(costly): print("body")

    def test_that_needs_nothing(): pass
"""


@pytest.fixture
def machine(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A test file on a machine that can do what CAN says."""
    capabilities = {
        name: SimpleNamespace(name=name, ok=ok, detail=f"no {name} here", instead=f"modprobe {name}")
        for name, ok in CAN.items()
    }
    monkeypatch.setattr(conftest, "probed", lambda: capabilities)
    monkeypatch.setattr(conftest, "_may_make_namespaces", lambda: True)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # loading other plugins takes seconds
    pytester.makepyfile(TESTS)
    pytester.makeini("[pytest]\nmarkers =\n  kernel: k\n  needs: n\n")
    return pytester


def outcome(machine: pytest.Pytester, *options: str) -> tuple[dict[str, int], str]:
    """How many tests ended how, and what was printed."""
    done = machine.runpytest_inprocess("-p", conftest.__name__, "-rA", *options)
    return {key: n for key, n in done.parseoutcomes().items() if not key.startswith("warning")}, done.stdout.str()


def test_what_is_lacking_is_skipped_before_set_up_with_the_way_out(machine: pytest.Pytester) -> None:
    ended, printed = outcome(machine)
    assert ended == {"passed": 2, "skipped": 2}
    assert "needs nft: no nft here; modprobe nft" in printed
    assert "set up" not in printed.replace("set up: ", "")
    assert "body" not in printed


def test_require_kernel_makes_it_a_failure_unless_the_lab_has_another_way(machine: pytest.Pytester) -> None:
    ended, printed = outcome(machine, "--require-kernel")
    assert ended == {"passed": 2, "skipped": 1, "errors": 1}
    assert "needs nft: no nft here; modprobe nft" in printed
    assert "body" not in printed


def test_require_every_feature_makes_all_of_it_failures(machine: pytest.Pytester) -> None:
    ended, _ = outcome(machine, "--require-every-feature")
    assert ended == {"passed": 2, "errors": 2}


def test_a_process_that_may_not_make_namespaces_is_sent_to_the_script(
    machine: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conftest, "_may_make_namespaces", lambda: False)
    ended, printed = outcome(machine)
    assert ended == {"passed": 1, "skipped": 3}
    assert "run the tests with scripts/test" in printed


def test_a_need_that_nobody_knows_is_an_error(machine: pytest.Pytester) -> None:
    machine.makepyfile(test_typo='import pytest\n@pytest.mark.needs("nftt")\ndef test_it(): pass\n')
    ended, printed = outcome(machine, "test_typo.py")
    assert ended == {"errors": 1}
    assert "nftt" in printed
