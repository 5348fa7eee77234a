"""A linear layer under many adapters, kernel by kernel: what each way costs beside the base product, and the floor.

One run goes through layers enough that their weights come from memory, not from a cache. *merged* is the base product,
which is all that merged weights cost; *single* is the layer's own forward under one adapter. The ways that need the
weights side by side, *bmm* and *grouped*, have them so before the clock starts; *copied* pays for it, as one forward
would. *graph* is *triton* in a CUDA graph, so the difference of the two is what launching costs. The floor is what the
bytes and multiplications take at this machine's own rates, measured first: base and adapters, one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Callable, Dict, Iterator, List, Sequence, Tuple

from conformance.bench import llama
from conformance.bench.measurements import Row, measuring, one_thread, spread
from conformance.bench.timing import interleaved
from conformance.shim_switch import KernelProbe

Way = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """A batch of `samples` of `tokens` tokens, under `distinct` adapters of `rank`, on square layers of `width`."""

    width: int
    rank: int
    samples: int
    tokens: int
    distinct: int
    dtype: str = "bfloat16"

    @property
    def name(self) -> str:
        """The case in words."""
        return (
            f"width {self.width}, rank {self.rank}, {self.samples} x {self.tokens} tokens, {self.distinct} adapters, "
            f"{self.dtype}"
        )

    def work(self, size: int) -> Tuple[Tuple[int, int], Tuple[int, int]]:
        """Return the least (bytes, multiplications and additions) of the base product and of the adapters' in it.

        Args:
            size: bytes of a number.
        """
        rows, width = self.samples * self.tokens, self.width
        base = (size * (width * width + 2 * rows * width), 2 * rows * width * width)
        return base, (size * (2 * self.distinct * self.rank * width + 3 * rows * width), 4 * rows * self.rank * width)


def cases(quick: bool, device: str) -> List[Case]:
    """Return the batches to measure."""
    if device == "cpu":
        return [Case(512, 8, 16, tokens, 8, "float32") for tokens in (1, 16)]
    if quick:
        return [Case(4096, 16, 32, tokens, 32) for tokens in (1, 512)]
    decoding = [Case(4096, rank, 32, 1, distinct) for rank in (8, 16, 64) for distinct in (1, 2, 8, 32)]
    prompts = [Case(4096, rank, 32, 512, distinct) for rank in (16, 64) for distinct in (2, 32)]
    others = [Case(1024, 16, 32, 1, 32), Case(4096, 16, 256, 1, 128), Case(4096, 16, 32, 16, 32)]
    return [*decoding, *prompts, *others, Case(4096, 16, 32, 1, 32, "float32"), Case(4096, 16, 32, 512, 32, "float32")]


def measure(*, quick: bool, seconds: float, device: str = "", of: Sequence[Case] = ()) -> List[Row]:
    """Return for each case (or those of `of`) the time of each way, as a ratio to the base product.

    Args:
        device: `cuda` where there is one, unless it is said; on `cpu` one thread works.
    """
    import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    with one_thread(), torch.no_grad():
        return [row for case in of or cases(quick, device) for row in _ratios(case, torch.device(device), seconds)]


def _ratios(case: Case, device: Any, seconds: float) -> Iterator[Row]:
    import torch

    measuring(case.name)
    dtype = getattr(torch, case.dtype)
    layers = _layers(case, device, dtype)
    x = torch.randn(case.samples, case.tokens, case.width, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    ways = _ways(layers, x, llama.names(case.samples, case.distinct))
    expected = ways["PEFT"]()
    off = {way: float((run() - expected).abs().max() / expected.abs().max()) for way, run in ways.items()}
    finish: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    found = interleaved({way: _finished(run, finish) for way, run in ways.items()}, seconds=seconds)
    bandwidth, rate = rates(device, dtype)
    base, adapters = (max(moved / bandwidth, done / rate) for moved, done in case.work(x.element_size()))
    for way, timing in found.items():
        if way != "merged":
            floor = 1.0 if way == "merged again" else 1 + adapters / base
            each = f"{1e6 * timing.median / len(layers):.4g} us a layer"
            said = each if way in ("single", "merged again") else f"{each}, off PEFT by {off[way]:.1g} of the largest"
            ratio = timing.median / found["merged"].median
            yield Row(f"{case.name}: {way}", ratio, "x merged", spread=f"{said}; {spread({way: timing})}", floor=floor)


def _finished(run: Way, finish: Callable[[], None]) -> Way:
    def both() -> None:
        run()
        finish()

    return both


def _layers(case: Case, device: Any, dtype: Any) -> List[Any]:
    """Return LoRA layers that together are larger than a GPU's caches; on a CPU, four."""
    import peft
    import torch

    torch.manual_seed(0)
    size = torch.finfo(dtype).bits // 8
    count = 4 if device.type == "cpu" else max(4, 2**28 // (case.width**2 * size))
    stack = torch.nn.Sequential(*[torch.nn.Linear(case.width, case.width, bias=False) for _ in range(count)])
    targets = [str(index) for index in range(count)]
    config = peft.LoraConfig(r=case.rank, target_modules=targets, init_lora_weights=False)
    model = peft.get_peft_model(stack, config, adapter_name="a0")  # type: ignore[arg-type, unused-ignore]
    for adapter in range(1, case.distinct):
        model.add_adapter(f"a{adapter}", config)
    return list(model.eval().to(device, dtype).base_model.model)


def _ways(layers: Sequence[Any], x: Any, names: Sequence[str]) -> Dict[str, Way]:
    """Return each way to run `x` through every layer; it returns the last layer's output."""
    probe = KernelProbe(names, x.device)

    def each(call: Callable[[int], Any]) -> Way:
        def run() -> Any:
            for index in range(len(layers)):
                y = call(index)
            return y

        return run

    def merged(index: int) -> Any:
        return layers[index].base_layer(x)

    def added(adds: Sequence[Callable[[Any, Any], Any]], index: int) -> Any:
        return adds[index](x, merged(index))

    found = {
        "merged": each(merged),
        "single": each(lambda index: layers[index](x)),
        "PEFT": each(lambda index: layers[index](x, adapter_names=list(names))),
        "shim": each(lambda index: probe.run(layers[index], x)),
    }
    for way, made in probe.ways.items():
        adds = [made(layer, x) for layer in layers]
        if adds[0] is not None:
            found[way] = each(partial(added, adds))
    found["copied"] = each(lambda index: probe.ways["bmm"](layers[index], x)(x, merged(index)))
    grouped = [_grouped(layer, x, names) for layer in layers]
    if grouped[0] is not None:
        found["grouped"] = each(lambda index: grouped[index](merged(index)))
    if x.device.type == "cuda" and "triton" in found:
        found["graph"] = _graph(found["triton"])
    found["merged again"] = found["merged"]
    return found


def _grouped(layer: Any, x: Any, names: Sequence[str]) -> Any:
    """Return what adds the adapters' products by `torch._grouped_mm`; None where there is none for such tensors."""
    import torch

    adapters = sorted(set(names))
    order = torch.tensor(sorted(range(len(names)), key=names.__getitem__), device=x.device)
    counts = torch.tensor([names.count(name) * x.shape[1] for name in adapters])
    ends = counts.cumsum(0).to(x.device, torch.int32)
    down = torch.stack([layer.lora_A[name].weight.t() for name in adapters])
    up = torch.stack([layer.lora_B[name].weight.t() * layer.scaling[name] for name in adapters])

    def add(y: Any) -> Any:
        taken = x.index_select(0, order).view(-1, x.shape[2])
        product = torch._grouped_mm(torch._grouped_mm(taken, down, offs=ends), up, offs=ends)
        return y.index_add_(0, order, product.view_as(y))

    try:
        add(layer.base_layer(x))
    except (AttributeError, RuntimeError):  # not in this torch, or not for this dtype, size or device
        return None
    return add


def _graph(run: Way) -> Way:
    """Return a replay of what `run` launches."""
    import torch

    run()  # what is made once, and compiled, is not for the graph
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        y = run()

    def replay() -> Any:
        graph.replay()
        return y

    return replay


def rates(device: Any, dtype: Any) -> Tuple[float, float]:
    """Return the bytes and the multiplications and additions of a second, by the best of a few copies and products."""
    import torch

    size, side = (2**30, 8192) if device.type == "cuda" else (2**26, 512)
    source = torch.empty(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    left = torch.randn(side, side, device=device).to(dtype)
    finish: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    ways: Dict[str, Way] = {"copy": lambda: target.copy_(source), "product": lambda: left @ left}
    found = interleaved({way: _finished(run, finish) for way, run in ways.items()}, seconds=0.0)
    return 2 * size / found["copy"].low, 2 * side**3 / found["product"].low
