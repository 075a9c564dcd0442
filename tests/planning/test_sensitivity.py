"""Errors are measured at a few sizes, and read off a falling curve in between."""

from small import Net, candidates_of

from ghostify.changes import Change, Keep, LayerPlan, MergeInputs, Prune
from ghostify.planning.sensitivity import Errors, measured_changes, output_errors


def test_errors_in_between_lie_on_a_falling_curve_and_known_ones_are_not_measured_again() -> None:
    candidates = candidates_of(Net().eval())
    pruned = [change for change in measured_changes(candidates["conv1"]) if isinstance(change, Prune)]
    assert [change.kept for change in pruned] == [12, 8, 4, 2], "of seven sizes four are measured"
    known: Errors = {("conv1", change): 1.0 / change.kept for change in pruned}
    asked = []

    def measure(name: str, change: Change) -> float:
        asked.append((name, change.kind))
        assert change.size
        return 1.0 / change.size

    errors = output_errors(candidates, measure, known)
    assert ("conv1", "prune") not in asked
    assert len(asked) == len(set(known)) - len(pruned)
    found = dict(zip(candidates["conv1"].options, errors["conv1"], strict=True))
    falling = [
        error
        for option, error in found.items()
        if isinstance(option, LayerPlan) and isinstance(option.output, Keep | Prune) and option.input is None
    ]
    assert falling == sorted(falling)
    assert len(falling) == 8
    assert falling[0] == 0
    both, alone = LayerPlan(Prune(8, 8), MergeInputs(4)), LayerPlan(Prune(8, 8))
    assert found[both] == found[alone] + found[LayerPlan(Keep(16), MergeInputs(4))] > found[alone]
