from launcher.restarts import RestartPolicy


def test_delays_double_and_the_fifth_failure_in_ten_minutes_gives_up() -> None:
    policy = RestartPolicy()
    assert [policy.delay_s(now) for now in (0.0, 1.0, 3.0, 7.0, 15.0)] == [1.0, 2.0, 4.0, 8.0, None]


def test_failures_long_ago_do_not_count() -> None:
    policy = RestartPolicy()
    delays = [policy.delay_s(now) for now in (0.0, 1.0, 3.0, 7.0, 700.0)]
    assert delays[-1] == 1.0
