"""Rules of the quantisers' operations, against brute force, where the package is installed."""

from importlib.util import find_spec

import pytest
import torch

from shim.routing.rules import RULES
from tests.shim.routing.brute_force import Case, check_declared

bitsandbytes, quanto = torch.ops.bitsandbytes, torch.ops.quanto
WIDTH = 64


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def rows_of_int8(x):
    return bitsandbytes.int8_vectorwise_quant(x.half(), 0.0)[:2]


def columns_taken_out(x):
    return bitsandbytes.int8_vectorwise_quant(x.half() * 4, 6.0)[:2]  # how many columns depends on the data


def int8_product(x):
    values, scales, _ = bitsandbytes.int8_vectorwise_quant(x.half(), 0.0)
    weight, columns, _ = bitsandbytes.int8_vectorwise_quant(drawn(8, WIDTH).half(), 0.0)
    return bitsandbytes.int8_scaled_mm(values, weight, scales, columns)


def mixed_product(x):
    values, scales, columns = bitsandbytes.int8_vectorwise_quant(x.half() * 4, 6.0)
    weight, stats, _ = bitsandbytes.int8_vectorwise_quant(drawn(8, WIDTH).half(), 0.0)
    return bitsandbytes.int8_mixed_scaled_mm(x.half() * 4, values, weight, scales, stats, columns)[0]


def four_bits(x):
    from bitsandbytes import functional

    packed, state = functional.quantize_4bit(drawn(WIDTH, WIDTH), quant_type="nf4")
    x = x.float().reshape(3, -1, WIDTH)
    if hasattr(bitsandbytes, "gemm_4bit"):
        return bitsandbytes.gemm_4bit(x, packed, state.shape, state.absmax, state.blocksize, "nf4")
    pytest.skip("an older bitsandbytes")


def four_bits_of_a_vector(x):
    from bitsandbytes import functional

    packed, state = functional.quantize_4bit(drawn(WIDTH, WIDTH), quant_type="nf4")
    args = (packed.t(), state.shape, state.absmax, state.code, state.blocksize)
    return torch.stack([bitsandbytes.gemv_4bit(row.float().view(1, 1, -1), *args) for row in x])


def bytes_product(x):
    weight = torch.randint(-127, 127, (8, WIDTH), generator=torch.Generator().manual_seed(0)).to(torch.int8)
    return quanto.qbytes_mm(x.float(), weight, drawn(8, 1))


def to_bytes(x):
    return quanto.quantize_symmetric(x.float(), dtype=torch.int8, axis=None, scale=torch.tensor(0.1))


CASES = {
    "bitsandbytes": [
        Case("int8_vectorwise_quant", rows_of_int8, f"B {WIDTH}", samples_in=[0, 0]),
        Case("int8_vectorwise_quant", columns_taken_out, f"B {WIDTH}", samples_in="mixed"),
        Case("int8_scaled_mm", int8_product, f"B {WIDTH}"),
        Case("int8_mixed_scaled_mm", mixed_product, f"B {WIDTH}", samples_in="mixed"),
        Case("gemm_4bit", four_bits, f"B 2 {WIDTH}"),
        Case("gemv_4bit", four_bits_of_a_vector, f"B {WIDTH}"),
    ],
    "optimum.quanto": [
        Case("qbytes_mm", bytes_product, f"B {WIDTH}"),
        Case("quantize_symmetric", to_bytes, f"B {WIDTH}"),
    ],
}
NAMES = {name for cases in CASES.values() for case in cases for name in case.names}


def installed(package):
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize(
    ("package", "case"), [(package, case) for package, cases in CASES.items() for case in cases], ids=repr
)
def test_declared_owners(package, case):
    if not installed(package):
        pytest.skip(f"{package} is not installed")
    __import__(package)
    check_declared(case)


def test_every_rule_has_a_case():
    quantised = {name for name, rule in RULES.items() if rule.__module__ == "shim.routing.rules.quantised"}
    assert quantised == NAMES
