from http_front.access.rates import AddressRates, TokenBucket


def test_a_full_bucket_allows_a_burst_and_then_single_events() -> None:
    bucket = TokenBucket(2, 10.0)
    assert [bucket.take(0.0) for _ in range(3)] == [0.0, 0.0, 5.0]
    assert bucket.take(5.0) == 0.0
    assert bucket.take(7.5) == 2.5
    assert [bucket.take(100.0) for _ in range(3)] == [0.0, 0.0, 5.0]


def test_each_ipv4_address_and_each_ipv6_network_has_its_own_bucket() -> None:
    rates = AddressRates(1, 60.0, max_addresses=10)
    for address in ("192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8:0:1::1", "", "fe80::1%lo"):
        assert rates.take(address, 0.0) == 0.0
    for address in ("192.0.2.1", "192.0.2.2", "2001:db8::2", "2001:db8::ffff:0:1", "fe80::2%lo"):
        assert rates.take(address, 0.0) == 60.0


def test_the_least_recent_addresses_are_dropped() -> None:
    rates = AddressRates(1, 60.0, max_addresses=2)
    for address in ("a", "b", "a", "c"):
        rates.take(address, 0.0)
    assert [rates.take(address, 0.0) for address in ("a", "c")] == [60.0, 60.0]
    assert rates.take("b", 0.0) == 0.0
