"""What the machine has to place units on: CPUs, NUMA nodes, GPUs, memory."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import NamedTuple, Protocol

from mgmt.core.placement.topology import Cpu, Gpu, Topology
from mgmt.settings.values import parse_cpus


class PciGpu(NamedTuple):
    """A GPU as its driver tells it; `bus_id` is DOMAIN:BUS:DEVICE.FUNCTION in hexadecimal."""

    uuid: str
    bus_id: str
    memory_bytes: int


class GpuProvider(Protocol):
    """Who knows the GPUs. May block for a second: the driver wakes the cards."""

    def find(self) -> tuple[list[PciGpu], str]:
        """The GPUs, and why there are none or some are missing ("" when nothing is)."""
        ...


class NoGpus:
    """A machine whose GPUs, if any, are not for units."""

    def find(self) -> tuple[list[PciGpu], str]:
        return [], "GPUs are not looked for"


class NvmlGpus:
    """NVIDIA's management library, through the extra `gpu`. A card that does not answer is left out."""

    def find(self) -> tuple[list[PciGpu], str]:
        try:
            import pynvml
        except ImportError:
            return [], "nvidia-ml-py is not installed; try: pip install 'mgmt[gpu]'"
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            return [], f"the NVIDIA driver does not answer: {error}"
        found, faults = [], []
        try:
            for number in range(pynvml.nvmlDeviceGetCount()):
                try:
                    card = pynvml.nvmlDeviceGetHandleByIndex(number)
                    uuid = _text(pynvml.nvmlDeviceGetUUID(card))
                    bus_id = _text(pynvml.nvmlDeviceGetPciInfo(card).busId)
                    found.append(PciGpu(uuid, bus_id, int(pynvml.nvmlDeviceGetMemoryInfo(card).total)))
                except pynvml.NVMLError as error:
                    faults.append(f"GPU {number} does not answer: {error}")
        except pynvml.NVMLError as error:
            faults.append(f"the NVIDIA driver does not answer: {error}")
        finally:
            with contextlib.suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()
        return found, "; ".join(faults) or ("" if found else "the NVIDIA driver has no GPU")


def read_topology(root: Path = Path("/"), gpus: GpuProvider | None = None) -> Topology:
    """The machine below `root`; of the real one only the CPUs that this process may use.

    A CPU's `core` is the lowest number among its hardware threads, so it is unique across packages. Without a
    description of nodes (containers, small boards) everything is node 0. GPUs are numbered in PCI order.
    """
    system = root / "sys/devices/system"
    online = _cpu_list(system / "cpu/online")
    if root == Path("/"):
        allowed = os.sched_getaffinity(0)
        online = online & allowed or allowed
    node_of = {
        cpu: int(path.name.removeprefix("node"))
        for path in (system / "node").glob("node[0-9]*")
        for cpu in _cpu_list(path / "cpulist")
    }
    cpus = tuple(
        Cpu(cpu, _core(system / f"cpu/cpu{cpu}", cpu), node_of.get(cpu, 0)) for cpu in sorted(online)
    )
    found, _ = (gpus or NoGpus()).find()
    cards = tuple(
        Gpu(card.uuid, index, _gpu_node(root, card.bus_id), card.memory_bytes)
        for index, card in enumerate(sorted(found, key=lambda card: _pci_address(card.bus_id)))
    )
    return Topology(cpus, cards, _memory_bytes(root))


def _core(folder: Path, cpu: int) -> int:
    for name in ("core_cpus_list", "thread_siblings_list"):  # the second is the old name
        siblings = _cpu_list(folder / "topology" / name)
        if cpu in siblings:
            return min(siblings)
    return cpu


def _cpu_list(path: Path) -> set[int]:
    """The numbers of a list such as `0-3,8`; empty when there is none (a node with memory alone has none)."""
    try:
        text = path.read_text(encoding="ascii").strip()
        return set(parse_cpus(text)) if text else set()
    except (OSError, ValueError):
        return set()


def _memory_bytes(root: Path) -> int:
    try:
        text = (root / "proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return 0
    match = re.search(r"^MemTotal:\s+(\d+) kB$", text, re.MULTILINE)
    return int(match[1]) << 10 if match else 0


def _pci_address(bus_id: str) -> tuple[int, ...]:
    return tuple(int(part, 16) for part in re.split(r"[:.]", bus_id))


def _gpu_node(root: Path, bus_id: str) -> int:
    # The driver writes the domain with eight digits, the kernel with four.
    domain, bus, device, function = _pci_address(bus_id)
    path = root / f"sys/bus/pci/devices/{domain:04x}:{bus:02x}:{device:02x}.{function:x}/numa_node"
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return -1


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
