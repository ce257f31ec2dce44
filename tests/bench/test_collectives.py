from tests.bench.collectives import measure


def test_a_layer_needs_fewer_collectives_than_in_diffusers_and_no_more_bytes() -> None:
    found = measure()
    for ours, theirs in zip(found["ours"], found["diffusers"], strict=True):
        assert ours.num_collectives <= theirs.num_collectives
        assert ours.num_bytes <= theirs.num_bytes
    assert found["ours"][0].num_collectives == 2
    assert found["diffusers"][0].num_collectives == 4
