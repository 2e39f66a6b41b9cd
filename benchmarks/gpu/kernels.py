"""Each kernel that a network calls, by itself with the network's own maps: where the time goes."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.gpu import timing
from benchmarks.gpu.calls import Call, recorded
from benchmarks.gpu.report import Item, Row, Told
from benchmarks.gpu.scale import Scale, random_large, random_small
from kbnet_cli.networks.accelerating import accelerated


def items(scale: Scale) -> Iterator[Item]:
    """Give the networks whose calls are measured."""
    yield Item("KBNet-S bf16", partial(measured, scale, lambda: random_small(scale.small), "bf16", "KBNet-S"))
    if scale.rehearsal:
        return  # it takes the interpreter a minute
    yield Item("KBNet-L bf16", partial(measured, scale, lambda: random_large(scale.large), "bf16", "KBNet-L"))


def measured(scale: Scale, build: Callable[[], nn.Module], precision: str, name: str) -> Iterable[Told]:
    """Tell each kind of call of a network: how often, how long, how far from its floor, its share of the network."""
    with torch.inference_mode():
        network = accelerated(build(), precision, scale.device)  # type: ignore[arg-type, type-var]
        batch = max(1, scale.batch // 2)
        pictures = scale.pictures(batch)
        calls = listen(network, pictures)
        whole = timing.on_gpu(lambda: network(pictures)).seconds
        counted: dict[tuple[object, ...], tuple[Call, int]] = {}
        for call in calls:
            counted[call.key] = call, counted.get(call.key, (call, 0))[1] + 1
        rows: list[tuple[float, Row]] = []
        for call, count in counted.values():
            seconds = timing.on_gpu(call.again).seconds
            rows.append((count * seconds, row(call, count, seconds, whole, precision, name)))
        rows.sort(key=lambda pair: -pair[0])
        yield Told(tuple(found for _, found in rows))
        yield Told(by_function(name, [found for _, found in rows], whole))
        alone = sum(seconds for seconds, _ in rows)
        pixels = pictures.shape[0] * scale.tile**2
        floor = floor_of(counted.values(), precision)
        words = (
            f"{name}, {precision}, batch {batch}: {1000 * whole:.4g} ms as one graph, {1e9 * whole / pixels:.3g} ns a "
            f"pixel. Its kernels by themselves sum to {1000 * alone:.4g} ms; what is missing is torch's own. The floor "
            f"of all kernels is {1000 * floor:.4g} ms."
        )
        yield Told(notes=(words,))


def listen(network: nn.Module, pictures: Tensor) -> list[Call]:
    """Return the calls of kernels that a network makes for some pictures."""
    with recorded() as calls:
        network(pictures)
    return calls


def floor_of(counted: Iterable[tuple[Call, int]], precision: str) -> float:
    """Return the seconds that all calls take at least."""
    return sum(count * call.floor(precision) for call, count in counted)


def row(call: Call, count: int, seconds: float, whole: float, precision: str, name: str) -> Row:
    """Return a call's row."""
    pictures, height, width, channels = call.maps.shape
    return {
        "network": name,
        "call": call.name,
        "maps": f"{pictures}×{height}×{width}×{channels}{call.matrix_rows}",
        "times": count,
        "ms": 1000 * seconds,
        "GB/s": call.bytes / seconds / 1e9,
        "TFLOP/s": call.operations / seconds / 1e12 if call.operations else None,
        "of its floor, %": 100 * call.floor(precision) / seconds,
        "of the network, %": 100 * count * seconds / whole,
    }


def by_function(name: str, rows: Iterable[Row], whole: float) -> tuple[Row, ...]:
    """Return a row a function: its calls of all levels together."""
    shares: dict[str, float] = {}
    times: dict[str, int] = {}
    for each in rows:
        function = str(each["call"])
        share, count = each["of the network, %"], each["times"]
        assert isinstance(share, float)
        assert isinstance(count, int)
        shares[function] = shares.get(function, 0.0) + share
        times[function] = times.get(function, 0) + count
    return tuple(
        {
            "network": name,
            "call": function,
            "maps": "all",
            "times": times[function],
            "ms": share / 100 * whole * 1000,
            "of the network, %": share,
        }
        for function, share in sorted(shares.items(), key=lambda pair: -pair[1])
    )
