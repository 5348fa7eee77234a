"""The shards of any work are disjoint, together all of it, alike everywhere, and about equally long."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conformance.report.jsonl import Report, footer, merge, read
from conformance.report.result import Result, exit_code, result
from conformance.selection import Choice, chosen_pairs
from conformance.shards import Shard, cost, costs_of
from conformance.verdict import Outcome, Verdict

COSTS = st.lists(st.integers(0, 10**6), max_size=60)
TOTALS = st.integers(1, 12)


def shards(items, total, cost=lambda item: item[1]):
    return [Shard(number, total).of(items, cost) for number in range(1, total + 1)]


@given(COSTS, TOTALS)
def test_the_union_is_exactly_the_whole_in_its_order(costs, total):
    items = list(enumerate(costs))
    parts = shards(items, total)
    assert sorted(item for part in parts for item in part) == items
    assert all(part == sorted(part) for part in parts)
    assert shards(items, total) == parts


@given(COSTS, TOTALS)
def test_no_shard_is_longer_than_its_part_and_what_is_left_of_the_dearest(costs, total):
    longest = max(sum(cost for _, cost in part) for part in shards(list(enumerate(costs)), total))
    # Graham 1966: the last item of the longest went where there was least, so at most to a mean of the others.
    assert longest <= sum(costs) / total + (1 - 1 / total) * max(costs, default=0) + 1e-6


@given(TOTALS)
def test_the_suites_own_pairs_divide_by_their_recorded_cost(total):
    whole = chosen_pairs()
    parts = [Choice(shard=Shard(number, total)).pairs() for number in range(1, total + 1)]
    assert sorted((m.name, c.name) for part in parts for m, c in part) == [(m.name, c.name) for m, c in whole]
    took = [sum(cost(model.name, [check.name]) for model, check in part) for part in parts]
    assert max(took) - min(took) <= 0.1 * max(took)


def test_what_is_dear_on_record_costs_more():
    assert cost("mobilevit", ["failure_leaves_no_trace"]) > cost("clip-text", ["failure_leaves_no_trace"]) > 1
    assert cost("unheard-of", ["unheard_of"]) == 1000


def test_the_record_is_the_mean_of_a_check_and_what_a_model_makes_of_it():
    times = {("a", "x"): 1.0, ("b", "x"): 3.0, ("a", "y"): 2.0, ("b", "y"): 6.0}
    verdicts = [Verdict(m, c, ("R1",), Outcome.PASS, seconds=took) for (m, c), took in times.items()]
    assert costs_of(verdicts) == {"checks": {"x": 2.0, "y": 4.0}, "models": {"a": 0.5, "b": 1.5}}
    assert costs_of([]) == {"checks": {}, "models": {}}


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/0", "-1/3", "1/3/5", "a/b", ""])
def test_a_shard_that_there_is_not_is_refused(text):
    with pytest.raises(ValueError, match="I from 1 to N"):
        Shard.parsed(text)


def test_a_shard_is_written_as_it_is_read():
    assert str(Shard.parsed(" 2 / 5")) == "2/5"


def part(shard, *verdicts, platform="Linux-6.5.0-1025-azure-x86_64", choice=(), complete=True, **header):
    chosen = {"models": "tiny", "checks": "all", **dict(choice), **({"shard": shard} if shard else {})}
    header = {"environment": {"platform": platform}, "choice": chosen, **header}
    return Report(header, verdicts, footer(verdicts, seconds=1.0, complete=complete, header=header))


ONE, TWO = Verdict("a", "x", ("R1",), Outcome.PASS), Verdict("b", "x", ("R1",), Outcome.PASS)


def test_merged_shards_are_complete_once_all_are_there():
    (merged,) = merge([part("1/2", ONE), part("2/2", TWO, platform="Linux-6.8.0-1021-azure-x86_64")])
    assert merged.passed
    assert merged.verdicts == (ONE, TWO)
    assert merged.shard == ""
    (merged,) = merge([part("1/3", ONE), part("3/3", TWO)])
    assert not merged.complete
    assert merged.shard == "1,3/3"
    (merged,) = merge([part("1/2", ONE), part("1/2", ONE)])
    assert not merged.complete
    (merged,) = merge([part("1/2", ONE), part("2/2", TWO, complete=False)])
    assert not merged.complete


def test_one_shard_alone_is_a_run_that_was_cut_short_though_its_own_run_passed():
    alone = part("1/3", ONE)
    assert result(alone) is Result.PASSED
    assert exit_code(alone) == 0
    (merged,) = merge([alone])
    assert result(merged) is Result.CUT_SHORT
    assert exit_code(merged) == 4
    assert merged.shard == "1/3"


OTHERS = {
    "choice": {"choice": {"models": "own:mine:build"}},
    "settings": {"settings": {"examples": 9}},
    "code": {"code": "another"},
    "expected": {"expected": [{"name": "a/R1", "said": "known", "model": "a", "checks": []}]},
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_shards_of_different_runs_do_not_complete_each_other(other):
    (merged,) = merge([part("1/2", ONE), part("2/2", TWO, **other)])
    assert not merged.complete
    models = other.get("choice", {}).get("models", "tiny")
    assert merged.shard == f"1/2 of tiny; 2/2 of {models}"
    (merged,) = merge([part("1/2", ONE, **other), part("2/2", TWO), part("1/2", ONE), part("2/2", TWO, **other)])
    assert merged.passed


def test_a_whole_run_completes_the_shards_of_its_own_run_and_no_others():
    platform = "Linux"  # of whole runs all of it must agree
    whole = part("", ONE, TWO, platform=platform)
    (merged,) = merge([part("1/2", ONE, platform=platform), whole])
    assert merged.passed
    (merged,) = merge([part("1/2", ONE, platform=platform, code="another"), whole])
    assert not merged.complete
    assert merged.shard == "1/2 of tiny"


def test_what_a_users_own_model_was_does_not_part_its_shards():
    parts = [part(f"{number}/2", ONE, choice={"own": {"own:mine:build": str(number)}}) for number in (1, 2)]
    (merged,) = merge(parts)
    assert merged.passed


def verdicts(path):
    return sorted((v.model, v.check, v.outcome.value, v.detail) for v in read(path).verdicts)


@pytest.mark.parametrize("workers", [(), ("-n", "2")])
def test_shards_merged_are_the_whole_run(sandbox, workers):
    run = ("run", "--checks", "R1,R2,R8,H1", *workers)
    whole = sandbox.conformance(*run, "--report", "whole.jsonl")
    for number in (1, 2, 3):
        sandbox.conformance(*run, "--shard", f"{number}/3", "--report", f"part{number}.jsonl")
    parts = [f"part{number}.jsonl" for number in (1, 2, 3)]
    assert sorted(line for name in parts for line in verdicts(sandbox.folder / name)) == verdicts(
        sandbox.folder / "whole.jsonl"
    )
    merged = sandbox.conformance("report", *parts, "--exit-code")
    assert merged.returncode == whole.returncode == 1
    assert merged.stdout.split("FAILED:")[1].split(" in ")[0] == whole.stdout.split("FAILED:")[1].split(" in ")[0]
    assert "Shard" not in merged.stdout
    two = sandbox.conformance("report", *parts[:2])
    assert "Shard 1,2/3: the rest is in the other shards" in two.stdout
    for some in (parts[:1], parts[:2]):
        assert sandbox.conformance("report", *some, "--exit-code").returncode != 0


def test_an_empty_shard_and_one_that_only_refuses_leave_the_verdict_to_the_others(sandbox):
    for number in (1, 2, 3):
        ran = sandbox.conformance("run", "--checks", "R8", "--shard", f"{number}/3", "--report", f"{number}.jsonl")
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert f"Shard {number}/3" in ran.stdout
        assert read(sandbox.folder / f"{number}.jsonl").complete
        alone = sandbox.conformance("report", f"{number}.jsonl", "--exit-code")
        assert alone.returncode == 4, alone.stdout
        assert "CUT SHORT" in alone.stdout
    assert len(read(sandbox.folder / "3.jsonl").verdicts) == 0
    merged = sandbox.conformance("report", "1.jsonl", "2.jsonl", "3.jsonl", "--exit-code")
    assert merged.returncode == 3
    assert "NOTHING SHOWN: 2 refused" in merged.stdout


def test_a_shard_that_was_cut_off_is_resumed(sandbox):
    run = ("run", "--checks", "R1,R2,H1", "--shard", "1/2", "--report", "run.jsonl")
    sandbox.conformance(*run)
    path = sandbox.folder / "run.jsonl"
    before = verdicts(path)
    path.write_text("".join(f"{line}\n" for line in path.read_text().splitlines()[:2]))
    ran = sandbox.conformance(*run, "--resume")
    assert verdicts(path) == before
    assert f"{len(before) - 1} checks to run" in ran.stdout


@pytest.mark.parametrize("shard", ["0/2", "3/2", "x"])
def test_a_wrong_shard_is_wrong_usage(sandbox, shard):
    ran = sandbox.conformance("run", "--shard", shard)
    assert ran.returncode == 2
    assert "such as 2/5" in ran.stderr
    ran = sandbox.pytest("-p", "conformance.plugin", "--pyargs", "conformance", f"--conformance-shard={shard}")
    assert ran.returncode == 4
    assert "such as 2/5" in ran.stderr


def test_the_plugin_divides_likewise(sandbox):
    found = []
    for number in (1, 2, 3, 4, 5):
        report = sandbox.folder / f"{number}.jsonl"
        sandbox.pytest(
            *("-p", "conformance.plugin", "--pyargs", "conformance", "--conformance-checks=R1,R2"),
            *(f"--conformance-shard={number}/5", f"--conformance-report={report}"),
        )
        assert read(report).complete, number
        found += verdicts(report)
    assert len(found) == len(set(found)) == 4


@pytest.mark.parametrize("models", ["every:bert,every:gpt2,every:t5", "methods"])
def test_the_sweep_divides_by_entries(models):
    pytest.importorskip("transformers")
    whole = [entry.name for entry in Choice(models).entries()]
    parts = [[entry.name for entry in Choice(models, shard=Shard(number, 3)).entries()] for number in (1, 2, 3)]
    assert sorted(name for part in parts for name in part) == sorted(whole)
    assert all(parts)


def test_the_record_that_is_shipped_is_one_that_can_be_written(tmp_path, sandbox):
    sandbox.conformance("run", "--checks", "R1", "--report", "run.jsonl")
    assert sandbox.conformance("report", "run.jsonl", "--costs", "costs.json").returncode == 0
    assert set(json.loads((sandbox.folder / "costs.json").read_text())["checks"]) == {"rows_are_right"}
