"""A test that runs for one build only cannot read which build that is."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import subprocess
import sys

import builds
import pytest
import torch

from igan_fast import ops
from igan_fast.ops import backend

ACCESSES = {
    "auto": lambda: ops.norm_act(torch.ones(3, 4), None, None),
    "by name": lambda: ops.feature_l1([torch.ones(3)], [torch.ones(3)], impl="native"),
    "backends": ops.backends,
    "how it was built": backend.build_info,
    "chosen": lambda: backend.chosen(torch.device("cpu")),
    "has_native_cpu": backend.has_native_cpu,
    "an operator": lambda: torch.ops.igan_fast.norm_act,
    "a process": lambda: subprocess.run([sys.executable, "-c", ""], check=False),
    "a shell": lambda: os.system("true"),
    "a spawned process": lambda: multiprocessing.get_context("spawn").Process(target=print).start(),
}


@pytest.mark.parametrize("access", ACCESSES.values(), ids=ACCESSES)
def test_an_access_fails_the_test_even_inside_a_handler(access):
    def hidden() -> None:
        with contextlib.suppress(Exception):
            access()

    with builds.hide_extension(processes=False), pytest.raises(pytest.fail.Exception, match="mark it every_build"):
        hidden()


def test_code_that_does_not_use_the_extension_works():
    x = torch.ones(3, 4)
    with builds.hide_extension(processes=True):
        assert ops.norm_act(x, None, None, impl="reference").shape == x.shape
        subprocess.run([sys.executable, "-c", ""], check=True)


def test_afterwards_the_extension_is_visible_again():
    before = ops.backends()
    with builds.hide_extension(processes=False):
        pass
    assert ops.backends() == before
    assert ops.norm_act(torch.ones(3, 4), None, None).shape == (3, 4)
    subprocess.run([sys.executable, "-c", ""], check=True)


def test_every_named_file_exists():
    assert [name for name in builds.ANY_BUILD if not (builds.TESTS / name).exists()] == []


def test_files_that_are_left_out_hold_no_test_of_every_build(request):
    """Of the files that were collected with this one: all, when all tests are run."""
    marks = ("any_build", "above_operators")
    left_out = [item for item in request.session.items if builds.runs_for_one_build(item.path)]
    assert [item.nodeid for item in left_out if not any(map(item.get_closest_marker, marks))] == []
    assert builds.runs_for_one_build(builds.TESTS / "reference" / "test_ops.py")
    assert builds.runs_for_one_build(builds.TESTS / "train" / "test_save.py")
    assert not builds.runs_for_one_build(builds.TESTS / "train" / "test_loop.py")  # marked every_build
    assert not builds.runs_for_one_build(builds.TESTS / "baselines" / "test_training.py")  # marked every_build
    assert not builds.runs_for_one_build(builds.TESTS / "data" / "test_store_processes.py")  # starts processes
    assert not builds.runs_for_one_build(builds.TESTS / "test_models.py")


def test_what_is_built_on_the_operators_has_tests_of_every_build():
    for folder in builds.ABOVE_OPERATORS:
        texts = [path.read_text(encoding="utf-8") for path in (builds.TESTS / folder).rglob("test_*.py")]
        assert any("every_build" in text for text in texts), folder


def test_the_expression_of_ci_is_the_one_by_which_files_are_left_out():
    ci = builds.TESTS.parent / ".ci" / "run"
    if not ci.exists():
        pytest.skip("the tests do not lie in a checkout")
    assert f"-m '{builds.ONE_BUILD}'" in ci.read_text(encoding="utf-8")


def test_this_file_is_run_for_every_build(request):
    """It starts processes and asks; nothing names it."""
    assert request.node.get_closest_marker("any_build") is None


@pytest.mark.parametrize("where", [pytest.param("here", marks=pytest.mark.any_build)])
@pytest.mark.every_build
def test_every_build_lifts_the_mark_of_a_parameter(where, request):
    assert request.node.get_closest_marker("any_build") is None
    assert ops.backends()


@pytest.mark.any_build
def test_the_extension_is_hidden_from_a_marked_test():
    with pytest.raises(pytest.fail.Exception):
        ops.backends()
