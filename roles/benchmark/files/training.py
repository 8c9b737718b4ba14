# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Training steps of ResNet50 v1.5 and of Wide & Deep in PyTorch, on random data.

    training.py resnet50|wide_and_deep fp32|bf16 SECONDS

Under torchrun all processes train one model together over gloo; process 0 prints what they all did. Each takes its CPUs and threads from its entry
in AINODE_INSTANCES, the node's placement of the workload "training" as JSON. Every few seconds one process a node writes AINODE_CHECKPOINT; when
nodes are lost, torchrun starts the processes of the others again, and they go on from there.
"""

from __future__ import annotations

import datetime
import fcntl
import json
import os
import socket
import sys
import time
from pathlib import Path

import torch
import workload
from measure import cpus
from torch import nn

BATCH = {"resnet50": 8, "wide_and_deep": 512}
SAVE_EVERY_S = 5


class Bottleneck(nn.Module):
    """Three convolutions and a shortcut; in v1.5 the stride is in the 3x3 one."""

    def __init__(self, channels_in, width, stride):
        super().__init__()
        channels = 4 * width
        self.inner = nn.Sequential(
            *(nn.Conv2d(channels_in, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(True)),
            *(nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(True)),
            *(nn.Conv2d(width, channels, 1, bias=False), nn.BatchNorm2d(channels)),
        )
        self.shortcut = nn.Identity()
        if stride > 1 or channels_in != channels:
            self.shortcut = nn.Sequential(nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))

    def forward(self, image):
        return torch.relu(self.inner(image) + self.shortcut(image))


def resnet50():
    """Return ResNet50 v1.5 for 1000 classes."""
    layers, channels = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(True), nn.MaxPool2d(3, 2, 1)], 64
    for width, blocks, first_stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            layers.append(Bottleneck(channels, width, 1 if block else first_stride))
            channels = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000)).to(memory_format=torch.channels_last)


class WideAndDeep(nn.Module):
    """26 categories of 10000 values and 13 numbers: a linear model over the categories and a perceptron over their embeddings, trained as one."""

    def __init__(self):
        super().__init__()
        self.register_buffer("first_row", torch.arange(26) * 10000)
        self.wide = nn.Embedding(260000, 1)
        self.embedding = nn.Embedding(260000, 32)
        widths = [26 * 32 + 13, 1024, 512, 256]
        layers = [layer for pair in zip(widths, widths[1:]) for layer in (nn.Linear(*pair), nn.ReLU(True))]
        self.deep = nn.Sequential(*layers, nn.Linear(256, 1))

    def forward(self, categories, numbers):
        rows = categories + self.first_row
        return self.deep(torch.cat([self.embedding(rows).flatten(1), numbers], 1)) + self.wide(rows).sum(1)


def model_of(name):
    """Return a model and the inputs and labels of a batch of random data for it."""
    torch.manual_seed(0)
    batch = BATCH[name]
    if name == "resnet50":
        return resnet50(), [torch.rand(batch, 3, 224, 224).to(memory_format=torch.channels_last)], torch.randint(0, 1000, (batch,))
    return WideAndDeep(), [torch.randint(0, 10000, (batch, 26)), torch.rand(batch, 13)], torch.randint(0, 2, (batch, 1)).float()


def step_of(name, precision, model, inputs, labels):
    """Return a function that does one training step on the batch `inputs` and `labels` and returns the loss before it."""
    loss_of = nn.functional.cross_entropy if name == "resnet50" else nn.functional.binary_cross_entropy_with_logits
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = loss_of(model(*inputs).float(), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def train_together(name, precision, seconds):
    """Train in all processes that torchrun started until process 0's time is up, and report there what was done since the last start."""
    torch.distributed.init_process_group("gloo", timeout=datetime.timedelta(seconds=120))
    rank, processes = torch.distributed.get_rank(), torch.distributed.get_world_size()
    checkpoint, restarts = Path(os.environ["AINODE_CHECKPOINT"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    model, inputs, labels = model_of(name)
    done = {"steps": 0, "seconds": 0.0}
    if restarts and checkpoint.exists():
        done = torch.load(checkpoint)
        model.load_state_dict(done.pop("model"))
    # It gives all processes the parameters of process 0.
    step = step_of(name, precision, nn.parallel.DistributedDataParallel(model), inputs, labels)
    first, steps = step(), done["steps"]
    torch.distributed.barrier()
    times, begin, saved = [], time.perf_counter(), time.perf_counter()
    # All must do the same number of steps, so process 0 says when it is enough, and when to save.
    orders = torch.tensor([1.0, 0.0])
    while orders[0]:
        start = time.perf_counter()
        last = step()
        now = time.perf_counter()
        times.append(now - start)
        orders[0], orders[1] = done["seconds"] + now - begin < seconds, now - saved > SAVE_EVERY_S
        torch.distributed.broadcast(orders, 0)
        if orders[1]:
            saved = now
            if os.environ["LOCAL_RANK"] == "0":
                save(checkpoint, {"model": model.state_dict(), "steps": steps + len(times), "seconds": done["seconds"] + now - begin})
    if rank == 0:
        about = {"processes": processes, "steps": steps + len(times), "restarts": restarts, "loss": [round(first, 4), round(last, 4)]}
        workload.report(times, time.perf_counter() - begin, processes * BATCH[name], **about)
    torch.distributed.destroy_process_group()


def save(path, state):
    """Write `state` to `path` in one step: what is there is always whole."""
    torch.save(state, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def interface_of(address):
    """Return the name of the interface that has the address (or name) `address`: left to itself gloo takes what the host name resolves to."""
    address = socket.gethostbyname(address)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for _number, name in socket.if_nameindex():
            try:
                # netdevice(7): struct ifreq is a name of 16 bytes and a sockaddr, whose address starts 4 bytes in.
                answer = fcntl.ioctl(any_socket, 0x8915, name.encode().ljust(40, b"\0"))  # SIOCGIFADDR
            except OSError:
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    raise SystemExit(f"no interface here has the address {address}: set benchmark_train_interface")


def main():
    name, precision, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
    if "TORCHELASTIC_RUN_ID" in os.environ:
        instance = json.loads(os.environ["AINODE_INSTANCES"])[int(os.environ["LOCAL_RANK"])]
        os.sched_setaffinity(0, cpus(instance["cpus"]))
        os.environ["GLOO_SOCKET_IFNAME"] = os.environ["GLOO_SOCKET_IFNAME"] or interface_of(os.environ["AINODE_ADDRESS"])
        torch.set_num_threads(instance["threads"])
        train_together(name, precision, seconds)
    else:
        workload.measure(step_of(name, precision, *model_of(name)), seconds, BATCH[name], threads=torch.get_num_threads())


if __name__ == "__main__":
    main()
