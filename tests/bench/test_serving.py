from tests.bench.serving.figures import OURS, RIVAL_1, RIVAL_2, TARGETS, Figures


def filled(ours: float, rival: float) -> Figures:
    """Return figures with one name per target, all with the same values."""
    figures = Figures()
    for target in TARGETS:
        for value in (0.5, 1.0, 9.0):  # the median is the middle one
            figures.add(target.name, OURS, ours * value)
            for side in (RIVAL_1, RIVAL_2):
                figures.add(target.name, side, rival * value)
    return figures


def test_a_target_is_a_limit_or_a_ratio_to_a_rival_and_rates_count_the_other_way() -> None:
    reached = {
        target["name"]: (target["found"], target["reached"])
        for target in filled(ours=5.0, rival=55.0).as_json()["targets"]
    }
    assert reached["status while computing, p99 ms"] == (11.0, True)
    assert reached["idle between two jobs, ms"] == (5.0, True)
    assert reached["submits a second, 16 clients"] == (5.0 / 55.0, False)


def test_the_table_names_what_was_missed() -> None:
    lines = filled(ours=1.0, rival=4.0).table().splitlines()
    assert any(line.startswith("MISSED   submits a second, 1 client: 0.25") for line in lines)
    assert any(line.startswith("reached  start to ready, s: 4.00, wanted 2") for line in lines)
