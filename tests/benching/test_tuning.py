"""Learning rates are tried alike for all, on people who are not reported on."""

from __future__ import annotations

from rkld.benching.registry import open_benchmark
from rkld.benching.tables import rows_of
from rkld.benching.tuning import choose_rates, tuning_cells


def test_tuning_tries_the_same_grid_for_all_on_people_who_are_not_reported():
    benchmark = open_benchmark("people", {"methods": "rkld,npo+rt", "seeds": 2, "tune": True})
    tried = [cell for cell in tuning_cells(benchmark) if cell.variant]
    assert {cell.seed for cell in tried} == {2}
    assert {cell.seed for cell in benchmark.cells()} == {0, 1}
    per_method = {name: [c.name for c in tried if c.variant.method == name] for name in ("rkld", "npo")}
    assert per_method["rkld"] == ["rkld@lr=0.00025", "rkld", "rkld@lr=0.001"]
    assert len(per_method["npo"]) == 3


def test_tuning_takes_the_smallest_distance_at_the_calibrated_stop():
    """Not at the oracle's peak, which no real erasure has."""
    benchmark = open_benchmark("people", {"methods": "rkld", "tune": True})
    tried = [cell for cell in tuning_cells(benchmark) if cell.variant]
    ks = dict(zip((cell.name for cell in tried), (0.3, 0.2, 0.2)))
    kept = dict(zip(ks, (1.0, 0.8, 0.9)))
    found = {
        cell: {
            "moments": {
                "stop": {"ks_distance": ks[cell.name], "retain_probability": kept[cell.name]},
                "oracle": {"ks_distance": 0.0},
            }
        }
        for cell in tried
    }
    assert choose_rates(benchmark, found) == {"rkld": "rkld@lr=0.001"}


def test_the_chosen_rate_is_named_where_it_is_the_default():
    benchmark = open_benchmark("people", {"methods": "npo,rkld", "seeds": 1})
    found = {cell: {"moments": {"last": {"ks_distance": 0.5}}} for cell in benchmark.cells() if cell.variant}
    how = {row["method"]: row["settings"] for row in rows_of(found, {"npo": "npo", "rkld": "rkld@lr=0.001"})}
    assert how == {"npo": "default = tuned", "rkld": "default"}
