"""Machines as trees of files, read into what placement works on."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mgmt.core.placement.topology import Cpu, Gpu
from mgmt.shell.topology import NoGpus, NvmlGpus, PciGpu, read_topology


class Cards:
    def __init__(self, *cards: PciGpu) -> None:
        self.cards = list(cards)

    def find(self) -> tuple[list[PciGpu], str]:
        return self.cards, ""


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def machine(
    root: Path, online: str, siblings: dict[int, str], nodes: dict[int, str], name: str = "core_cpus_list"
) -> None:
    system = root / "sys/devices/system"
    write(system / "cpu/online", f"{online}\n")
    for cpu, threads in siblings.items():
        write(system / f"cpu/cpu{cpu}/topology/{name}", f"{threads}\n")
        # Equal in both packages: no name for a core.
        write(system / f"cpu/cpu{cpu}/topology/core_id", "0\n")
    for node, cpus in nodes.items():
        write(system / f"node/node{node}/cpulist", f"{cpus}\n")
    write(root / "proc/meminfo", "MemTotal:       24684092 kB\nMemFree:        24032908 kB\n")


@pytest.mark.parametrize("name", ["core_cpus_list", "thread_siblings_list"])
def test_two_nodes_with_two_threads_a_core(tmp_path: Path, name: str) -> None:
    siblings = {cpu: f"{cpu % 4},{cpu % 4 + 4}" for cpu in range(8)}
    machine(tmp_path, "0-7", siblings, {0: "0-1,4-5", 1: "2-3,6-7"}, name)
    topology = read_topology(tmp_path)
    assert topology.cpus == tuple(Cpu(cpu, cpu % 4, cpu % 4 // 2) for cpu in range(8))
    assert topology.nodes == (0, 1)
    assert topology.memory_bytes == 24684092 * 1024
    assert topology.gpus == ()


def test_offline_cpus_are_not_there(tmp_path: Path) -> None:
    # The kernel lists only threads that are online: CPU 5 is alone on its core.
    machine(tmp_path, "0,2-3,5", {0: "0", 2: "2-3", 3: "2-3", 5: "5"}, {0: "0,2-3", 1: "5", 2: ""})
    assert read_topology(tmp_path).cpus == (Cpu(0, 0, 0), Cpu(2, 2, 0), Cpu(3, 2, 0), Cpu(5, 5, 1))


def test_without_nodes_and_siblings_everything_is_node_0(tmp_path: Path) -> None:
    write(tmp_path / "sys/devices/system/cpu/online", "0-1\n")
    topology = read_topology(tmp_path)
    assert topology.cpus == (Cpu(0, 0, 0), Cpu(1, 1, 0))
    assert topology.memory_bytes == 0


def test_gpus_are_numbered_in_pci_order_and_know_their_node(tmp_path: Path) -> None:
    machine(tmp_path, "0", {0: "0"}, {0: "0"})
    write(tmp_path / "sys/bus/pci/devices/0000:0a:00.0/numa_node", "1\n")
    write(tmp_path / "sys/bus/pci/devices/10000:01:00.1/numa_node", "-1\n")
    cards = Cards(
        PciGpu("GPU-c", "00010000:01:00.1", 3),
        PciGpu("GPU-b", "00000000:0A:00.0", 2),
        PciGpu("GPU-a", "00000000:09:1F.0", 1),
    )
    assert read_topology(tmp_path, cards).gpus == (
        Gpu("GPU-a", 0, -1, 1),
        Gpu("GPU-b", 1, 1, 2),
        Gpu("GPU-c", 2, -1, 3),
    )


def test_the_real_machine_is_what_this_process_may_use() -> None:
    topology = read_topology()
    assert topology.ids == os.sched_getaffinity(0)
    assert topology.memory_bytes > 64 << 20
    one = min(topology.ids)
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {one})
    try:
        assert read_topology().ids == {one}
    finally:
        os.sched_setaffinity(0, before)


# ---- the NVIDIA library ----


class NVMLError(Exception):
    pass


def nvml(cards: list[tuple[object, str, int] | NVMLError], init: NVMLError | None = None) -> SimpleNamespace:
    """Plays pynvml; `calls` counts nvmlInit and nvmlShutdown."""
    fake = SimpleNamespace(NVMLError=NVMLError, open=0)

    def start() -> None:
        if init is not None:
            raise init
        fake.open += 1

    def stop() -> None:
        fake.open -= 1

    def handle(number: int) -> tuple[object, str, int]:
        card = cards[number]
        if isinstance(card, NVMLError):
            raise card
        return card

    fake.nvmlInit, fake.nvmlShutdown = start, stop
    fake.nvmlDeviceGetCount = lambda: len(cards)
    fake.nvmlDeviceGetHandleByIndex = handle
    fake.nvmlDeviceGetUUID = lambda card: card[0]
    fake.nvmlDeviceGetPciInfo = lambda card: SimpleNamespace(busId=card[1])
    fake.nvmlDeviceGetMemoryInfo = lambda card: SimpleNamespace(total=card[2])
    return fake


def test_cards_of_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = nvml([("GPU-1", "00000000:01:00.0", 80), NVMLError("lost"), (b"GPU-3", "00000000:03:00.0", 90)])
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    found, reason = NvmlGpus().find()
    assert found == [PciGpu("GPU-1", "00000000:01:00.0", 80), PciGpu("GPU-3", "00000000:03:00.0", 90)]
    assert reason == "GPU 1 does not answer: lost"
    assert fake.open == 0


def test_why_there_are_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert NvmlGpus().find() == ([], "nvidia-ml-py is not installed; try: pip install 'mgmt[gpu]'")
    monkeypatch.setitem(sys.modules, "pynvml", nvml([], NVMLError("Driver Not Loaded")))
    assert NvmlGpus().find() == ([], "the NVIDIA driver does not answer: Driver Not Loaded")
    monkeypatch.setitem(sys.modules, "pynvml", nvml([]))
    assert NvmlGpus().find() == ([], "the NVIDIA driver has no GPU")
    assert NoGpus().find() == ([], "GPUs are not looked for")
