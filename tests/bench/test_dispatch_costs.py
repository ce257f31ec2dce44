from tests.bench.dispatch import costs_us

EVENTS = ["submit", "dispatch", "finish", "status", "cancel", "beat", "preempt", "lose"]


def test_every_event_has_a_cost_with_one_group_and_with_many() -> None:
    for num_groups in (1, 3):
        costs = costs_us(10, num_groups, num_rounds=20)  # more than the queue has room for
        assert list(costs) == EVENTS
        assert all(cost > 0 for cost in costs.values())
