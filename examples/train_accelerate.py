"""Train with Accelerate on pictures in class folders, streamed from the hub.

Needs accelerate and what ``train_pytorch.py`` needs. Accelerate starts the processes and moves what it prepares. The
loader takes rank and world size from torch.distributed, as Accelerate has set it up, so it is not prepared; its state
is kept with the rest by ``register_for_checkpointing``.
"""

import argparse

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from dsx import DatasetHubClient
from dsx.torch import HubDataLoader, HubDataset


def to_tensor(image):
    """Return a picture as 64 numbers from 0 to 1."""
    return torch.from_numpy(np.asarray(image.convert("L"), dtype=np.float32).ravel() / 255)


def main(options):
    """Train for some epochs, or stop in the middle and go on from there."""
    accelerator = Accelerator(cpu=True)
    torch.manual_seed(0)
    train = HubDataset(DatasetHubClient(cache_dir=None), options.dataset, include="train/**", transform=to_tensor)
    loader = HubDataLoader(train, batch_size=32, shuffle=True, seed=1)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, len(train.classes)))
    model, optimizer = accelerator.prepare(model, torch.optim.Adam(model.parameters(), lr=2e-3))
    accelerator.register_for_checkpointing(loader)
    if options.resume:
        accelerator.load_state(options.resume)

    steps = 0
    while loader.epoch < options.epochs:
        for pictures, labels in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(pictures.to(accelerator.device)), labels.to(accelerator.device))
            accelerator.backward(loss)
            optimizer.step()
            steps += 1
            if steps == options.stop_after:
                accelerator.save_state(options.checkpoint)
                accelerator.print(f"stopped after {steps} steps")
                return
    accelerator.print(f"{steps} steps, last loss {loss.item():.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--checkpoint", default="accelerate-state")
    parser.add_argument("--resume", help="a folder of a state to go on from")
    parser.add_argument("--stop-after", type=int, help="stop after so many steps")
    main(parser.parse_args())
