"""The kernels as machine code for the GPUs that they are for, compiled without one: what the interpreter cannot see."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="Triton is not installed: pip install 'mixed-adapter-batches[gpu]'")

# Not in this process, where the kernels are interpreted.
COMPILE = r"""
import json, os, re, subprocess, sys, tempfile
import torch, triton, triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from shim.kernels import triton_kernels
from shim.kernels.triton_lora import blocks_for

def compiled(kernel, x, weights, tokens, capability, aligned):
    blocks = blocks_for(tokens, getattr(torch, weights))
    dtype = getattr(tl, weights)
    constants = dict(DTYPE=dtype, DOT=dtype, ALIGNED=aligned, SHARES=blocks.shares(4096), PLACES=blocks.places,
        RANKS=blocks.ranks, INNER=blocks.inner, RANK_STEP=8, COLUMNS=blocks.columns)
    constants = {name: constants[name] for name in kernel.arg_names if name in constants}
    pointers = dict(x="*" + x, y="*" + x, h="*fp32", order="*i64", tiles="*i64", weights="*i64")
    signature = {n: "constexpr" if n in constants else pointers.get(n, "i32") for n in kernel.arg_names}
    by_16 = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(kernel.arg_names) if n not in (*constants, "tokens")}
    source = ASTSource(kernel, signature=signature, constexprs=constants, attrs=by_16)
    options = {"num_warps": blocks.warps, "num_stages": blocks.stages}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)

def spills(cubin):
    tool = os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia", "bin", "cuobjdump")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        used = subprocess.run([tool, "-res-usage", file.name], stdout=subprocess.PIPE, check=True).stdout.decode()
    return [int(size) for size in re.findall(r"(?:STACK|LOCAL):(\d+)", used)] != [0, 0]

found = []
for capability, x, weights, tokens, aligned in json.loads(sys.argv[1]):
    for name in ("shrink", "expand"):
        code = compiled(getattr(triton_kernels, name), x, weights, tokens, capability, aligned)
        ptx = code.asm["ptx"]
        holds = lambda pattern: bool(re.search(pattern, ptx))
        found.append({"kernel": name, "shared": code.metadata.shared, "cubin": len(code.asm["cubin"]),
            "spills": spills(code.asm["cubin"]), "atomics": holds(r"\b(atom|red)\."), "tf32": holds("tf32"),
            "on tensor cores": holds(r"\b(wgmma\.mma_async|mma\.sync)\b"),
            "by 16 bytes": holds(r"\bcp\.async\..*0x10\b"), "by 2 bytes": holds(r"\bld\.global[.a-z0-9]*\.b16\b")})
print(json.dumps(found))
"""


def compiled(*cases):
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, json.dumps(cases)], env=environment, stdout=subprocess.PIPE, check=True
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("capability", [80, 90])
def test_the_machine_code_is_as_meant(capability):
    cases = [
        (capability, x, weights, tokens, True)
        for x, weights in (("bf16", "bfloat16"), ("fp16", "float16"), ("bf16", "float32"), ("fp32", "float32"))
        for tokens in (1, 512)
    ]
    found = compiled(*cases)
    for (_, _, weights, tokens, _), kernel in zip([case for case in cases for _ in range(2)], found):
        where = f"{kernel} for {weights}, {tokens} tokens"
        assert kernel["cubin"], where
        assert not kernel["atomics"], where
        assert not kernel["tf32"], where
        assert not kernel["spills"], where
        assert kernel["on tensor cores"] is (weights != "float32"), where
        assert kernel["shared"] <= 99 * 1024, f"more than every GPU since 8.0 has: {where}"


def test_weights_that_begin_at_16_bytes_are_read_by_16_bytes():
    aligned, unaligned = compiled((90, "bf16", "bfloat16", 1, True), (90, "bf16", "bfloat16", 1, False))[::2]
    assert aligned["by 16 bytes"]
    assert not aligned["by 2 bytes"]
    assert unaligned["by 2 bytes"]
