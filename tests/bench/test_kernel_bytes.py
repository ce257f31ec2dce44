from tests.bench.kernel_bytes import block_bytes


def test_fused_kernels_move_less_than_a_third_of_what_plain_ones_do() -> None:
    assert 0 < block_bytes(is_fused=True) < block_bytes(is_fused=False) / 3
