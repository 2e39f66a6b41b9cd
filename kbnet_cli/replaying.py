"""A network on a GPU of CUDA: copies on streams of their own, and what recurs recorded once and replayed (CUDA graphs).

A batch's way: into pinned memory, over to the device, limited, through the network, the input subtracted, back into
pinned memory. While one is computed the next is on its way there and the one before on its way back.
"""

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from math import prod

import numpy as np
import torch
from jaxtyping import Bool, Float32
from torch import Tensor

from kbnet_cli.batching import FLIGHTS, Landing, Shape, Tile
from kbnet_cli.errors import DeviceError, LostDeviceError
from kbnet_cli.kernels.devices import first_line, is_full

GRAPHS = 32
"""So many are kept: batches of the usual tile in each size, and of photos that are no larger than one. They share the
memory of feature maps; each has its tiles and answers, a hundred megabytes for sixteen tiles of 512."""
RECURS = 2
"""How often a shape runs as it is before it is recorded."""
SHARE = 0.5
"""Of the free memory, for one batch: its graph and what it runs without one may be there at once."""
RECORDING = threading.Lock()
"""Networks of one process share a device: nothing begins on it while another's graph is recorded, or while a network is
brought there, whose memory may just have been another's."""


@dataclass(frozen=True)
class Residual:
    """What a network adds to tiles, on any device. Numbers that are not finite count as 0 or the limits."""

    network: Callable[[Tensor], Tensor]
    """Maps (batch, channels, height, width) to the same, float32."""
    limit: tuple[float, float]
    """What tiles are clipped to."""
    autocast: bool
    """Whether torch is to choose where it takes bfloat16."""

    def __call__(self, tiles: Float32[Tensor, "b h w c"]) -> tuple[Float32[Tensor, "b h w c"], Bool[Tensor, " b"]]:
        """Return the residuals, and of each tile whether its residual is finite."""
        low, high = self.limit
        limited = tiles.nan_to_num(nan=0.0, posinf=high, neginf=low).clamp(low, high).permute(0, 3, 1, 2)
        if tiles.device.type != "cuda":  # whose kernels want a pixel's channels together
            limited = limited.contiguous()
        with torch.inference_mode(), torch.autocast(tiles.device.type, torch.bfloat16, enabled=self.autocast):
            answer = (self.network(limited).float() - limited).permute(0, 2, 3, 1).contiguous()
            return answer, answer.isfinite().flatten(1).all(1)


class Cuda:
    """What of a CUDA device is needed here, by torch: memory, three streams, marks in them, recordings."""

    def __init__(self, device: torch.device) -> None:
        self.name = str(device)
        self._device = device
        self._sending, self._computing, self._returning = (torch.cuda.Stream(device) for _ in range(3))
        self._pool = torch.cuda.graph_pool_handle()
        torch.cuda.synchronize(device)  # the weights have come on a stream that these do not wait for

    def host(self, count: int, dtype: torch.dtype) -> Tensor:
        """Return memory of this computer that the device copies from and to by itself."""
        return torch.empty(count, dtype=dtype, pin_memory=True)

    def empty(self, count: int, dtype: torch.dtype) -> Tensor:
        """Return memory of the device."""
        return torch.empty(count, dtype=dtype, device=self._device)

    def in_force(self) -> AbstractContextManager[object]:
        """Make it the thread's device.

        Where a stream ends that of the device before comes into force again, and with it, in each process, half a
        gigabyte of the first GPU's memory.
        """
        return torch.cuda.device(self._device)

    def sending(self) -> AbstractContextManager[object]:
        """Let the device do what follows one after the other, and meanwhile what is in the other streams."""
        return torch.cuda.stream(self._sending)

    def computing(self, after: object) -> AbstractContextManager[object]:
        """Do the same in another stream, once all before a mark is done."""
        return self._behind(self._computing, after)

    def returning(self, after: object) -> AbstractContextManager[object]:
        """Do the same in a third."""
        return self._behind(self._returning, after)

    def _behind(self, stream: torch.cuda.Stream, mark: object) -> AbstractContextManager[object]:
        assert isinstance(mark, torch.cuda.Event)
        stream.wait_event(mark)
        return torch.cuda.stream(stream)  # also makes its device the one in force

    def mark(self) -> object:
        """Return a mark behind all that the stream in force has been given so far."""
        event = torch.cuda.Event(blocking=True)  # who waits sleeps
        event.record()
        return event

    def wait(self, mark: object) -> None:
        """Wait until all before a mark is done."""
        assert isinstance(mark, torch.cuda.Event)
        mark.synchronize()

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record some work of the computing stream, without doing it; what is returned does it, as often as wanted.

        Recordings share their memory: what one has left is there until the next one runs.
        """
        graph = torch.cuda.CUDAGraph()
        # Other threads may wait for their answers meanwhile, so only this one's calls are looked at.
        with torch.cuda.graph(graph, self._pool, self._computing, capture_error_mode="thread_local"):
            work()
        return graph.replay

    def settle(self) -> None:
        """Wait until the device has nothing left to do."""
        torch.cuda.synchronize(self._device)

    def give_back(self) -> None:
        """Give memory that no tensor holds back to the system. No recording is left."""
        try:
            with torch.cuda.device(self._device):
                torch.cuda.empty_cache()
        finally:
            self._pool = torch.cuda.graph_pool_handle()  # the one before has ended with its last recording

    def free_bytes(self) -> int:
        """Return how much memory tensors could still take."""
        free, _total = torch.cuda.mem_get_info(self._device)
        return free + torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)

    def forget_peak(self) -> int:
        """Begin to watch the memory, and return what tensors hold now."""
        torch.cuda.reset_peak_memory_stats(self._device)
        return torch.cuda.memory_allocated(self._device)

    def peak_bytes(self) -> int:
        """Return the most that tensors have held since then."""
        return torch.cuda.max_memory_allocated(self._device)


class _Stage:
    """Where one batch lies on its way: in pinned memory and on the device, before and behind the network."""

    def __init__(self, device: Cuda, count: int, tiles: int) -> None:
        """Make room for so many numbers, of so many tiles."""
        self.count, self.tiles = count, tiles
        self._host = [device.host(count, torch.float32), device.host(count, torch.float32)]
        self._device = [device.empty(count, torch.float32), device.empty(count, torch.float32)]
        self.host_finite, self.finite = device.host(tiles, torch.bool), device.empty(tiles, torch.bool)

    def views(self, shape: Shape) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the places as tensors of a batch's shape: host's and device's input, device's and host's answer."""
        host_given, host_answer = (flat[: prod(shape)].view(shape) for flat in self._host)
        given, answer = (flat[: prod(shape)].view(shape) for flat in self._device)
        return host_given, given, answer, host_answer


@dataclass(frozen=True)
class _Graph:
    """Recorded work, and where it reads and writes."""

    replay: Callable[[], None]
    given: Tensor
    answer: Tensor
    finite: Tensor


class Replaying:
    """Answer batches of tiles on a device: a `batching.Runner`.

    Batches of a shape run as they are at first, which sets up whatever the network sets up; when the shape comes again
    it is recorded, and replayed from then on. Photos of odd sizes, which come once, are not worth a recording.
    """

    def __init__(self, residual: Residual, device: Cuda) -> None:
        self.notes: list[str] = []
        """What a user should know of how it runs."""
        self._residual, self._device = residual, device
        self._stages: list[_Stage | None] = [None] * FLIGHTS
        self._turn = 0
        self._graphs: OrderedDict[Shape, _Graph] = OrderedDict()
        self._seen: Counter[Shape] = Counter()
        self._records = True
        self._took: dict[Shape, int] = {}
        """Bytes of feature maps, by the shape of a tile."""

    def launch(self, tiles: Sequence[Tile]) -> Landing:
        """Begin to answer tiles of one shape.

        Raises:
            torch.OutOfMemoryError: nothing has begun.
            LostDeviceError: the device does not work any more; its answers raise it too.
        """
        with RECORDING, torch.inference_mode(), self._device.in_force():
            try:
                return self._launched(tiles)
            except BaseException as error:
                self._settle()  # what has begun still writes to memory that is given back
                if is_full(error):
                    raise torch.OutOfMemoryError(str(error)) from error
                raise

    def _settle(self) -> None:
        """Wait until the device has nothing left to do; an error here is one of the device itself, which is lost."""
        try:
            self._device.settle()
        except Exception as error:
            raise self._lost(error) from error

    def _lost(self, error: Exception) -> LostDeviceError:
        return LostDeviceError(f"{self._device.name} has stopped working: {first_line(error)}")

    def _launched(self, tiles: Sequence[Tile]) -> Landing:
        device, shape = self._device, (len(tiles), *tiles[0].shape)
        stage = self._stage(shape)
        host_given, given, answer, host_answer = stage.views(shape)
        host_finite, finite = stage.host_finite[: len(tiles)], stage.finite[: len(tiles)]
        np.stack(tiles, out=host_given.numpy())
        with device.sending():
            given.copy_(host_given, non_blocking=True)
            arrived = device.mark()
        with device.computing(arrived):
            self._compute(shape, given, answer, finite)
            computed = device.mark()
        with device.returning(computed):
            host_answer.copy_(answer, non_blocking=True)
            host_finite.copy_(finite, non_blocking=True)
            back = device.mark()
        return partial(self._landed, back, host_answer, host_finite)

    def _landed(
        self, back: object, answer: Tensor, finite: Tensor
    ) -> tuple[Float32[np.ndarray, "b h w c"], Bool[np.ndarray, " b"]]:
        try:
            self._device.wait(back)
        except Exception as error:
            raise self._lost(error) from error
        return answer.numpy(), finite.numpy()

    def _stage(self, shape: Shape) -> _Stage:
        """Return the next place for a batch. What was there has been handed out."""
        self._turn = (self._turn + 1) % FLIGHTS
        stage = self._stages[self._turn]
        if stage is None or stage.count < prod(shape) or stage.tiles < shape[0]:
            self._stages[self._turn] = None  # first, so that both need not be there at once
            del stage
            stage = self._stages[self._turn] = _Stage(self._device, prod(shape), shape[0])
        return stage

    def _compute(self, shape: Shape, given: Tensor, answer: Tensor, finite: Tensor) -> None:
        graph = self._graphs.get(shape) or self._recorded(shape)
        if graph is not None:
            self._graphs.move_to_end(shape)
            graph.given.copy_(given)
            graph.replay()
            found = graph.answer, graph.finite
        else:
            unknown = shape[0] == 1 and shape[1:] not in self._took
            held = self._device.forget_peak() if unknown else 0
            found = self._residual(given)
            if unknown:
                self._took[shape[1:]] = max(1, self._device.peak_bytes() - held)
            self._seen[shape] += 1
        answer.copy_(found[0])
        finite.copy_(found[1])

    def _recorded(self, shape: Shape) -> _Graph | None:
        """Return new recorded work for a shape that has come before; None where there is none."""
        if self._seen[shape] < RECURS or not self._records:
            return None
        if shape[0] * self._took.get(shape[1:], 0) > self._device.free_bytes():
            return None  # others have taken memory since; it may not be full in the middle of a recording
        if len(self._graphs) == GRAPHS:
            self._device.settle()
            self._graphs.popitem(last=False)
        given = self._device.empty(prod(shape), torch.float32).view(shape)
        found: list[Tensor] = []
        try:
            replay = self._device.record(lambda: found.extend(self._residual(given)))
        except Exception as error:
            if is_full(error):
                raise torch.OutOfMemoryError(str(error)) from None
            self._records = False
            self.notes.append(f"CUDA graphs are not used on {self._device.name}, which costs time: {first_line(error)}")
            return None
        self._graphs[shape] = _Graph(replay, given, *found)
        return self._graphs[shape]

    def room(self, shape: Shape) -> int | None:
        """Return how many tiles of a shape there is memory for; None before one was answered."""
        took = self._took.get(shape)
        return None if took is None else int(SHARE * self._device.free_bytes()) // took

    def release(self) -> None:
        """Give back all memory but the weights'. Nothing is on the device."""
        with RECORDING:
            self._device.settle()
            self._graphs.clear()
            self._seen.clear()
            self._stages = [None] * FLIGHTS
            self._device.give_back()

    def full(self, shape: Shape) -> DeviceError:
        """Return the error to raise where one tile alone does not fit."""
        height, width, _ = shape
        took = self._took.get(shape)
        needed = "" if took is None else f", and it takes {took / 1e9:.1f} GB"
        try:
            free = self._device.free_bytes()
        except Exception as error:
            return self._lost(error)
        return DeviceError(
            f"out of memory on {self._device.name} with a tile of {height}×{width}: {free / 1e9:.1f} GB free{needed}",
            hint="use a smaller --tile (it changes the picture a little), or --device cpu",
        )
