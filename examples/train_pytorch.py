"""Train a small network on pictures in class folders, streamed from the hub, with a checkpoint that resumes exactly.

Needs torch, numpy and Pillow, DSX_URL and DSX_API_KEY. The dataset has folders ``train/<class>`` and ``test/<class>``
of 8 by 8 pictures, as the demo writes them. Stop it whenever you like and run it again: it ends with the same weights.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import nn

from dsx import DatasetHubClient
from dsx.torch import HubDataLoader, HubDataset


def to_tensor(image):
    """Return a picture as 64 numbers from 0 to 1."""
    return torch.from_numpy(np.asarray(image.convert("L"), dtype=np.float32).ravel() / 255)


def save(checkpoint, model, optimizer, loader):
    """Keep all that a run consists of; a kill in the middle leaves the checkpoint before."""
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "loader": loader.state_dict()}
    new = checkpoint.with_suffix(".new")
    torch.save(state, new)
    new.replace(checkpoint)


def main(options):
    """Train, and tell how well the test pictures are recognised."""
    hub = DatasetHubClient(cache_dir=None)
    train = HubDataset(hub, options.dataset, include="train/**", transform=to_tensor)
    test = HubDataset(hub, options.dataset, include="test/**", transform=to_tensor, revision=train.revision)
    loader = HubDataLoader(train, batch_size=32, shuffle=True, seed=1, num_workers=options.workers)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, len(train.classes)))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    if options.checkpoint.exists():
        kept = torch.load(options.checkpoint)
        model.load_state_dict(kept["model"])
        optimizer.load_state_dict(kept["optimizer"])
        loader.load_state_dict(kept["loader"])
        print(f"goes on in epoch {loader.epoch}")

    steps = 0
    while loader.epoch < options.epochs:
        for pictures, labels in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(pictures), labels).backward()
            optimizer.step()
            steps += 1
            if steps == options.stop_after:
                save(options.checkpoint, model, optimizer, loader)
                print(f"stopped after {steps} steps")
                return
        save(options.checkpoint, model, optimizer, loader)
        print(f"epoch {loader.epoch}: {loader.stats()}")

    with torch.no_grad():
        right = sum(int((model(x).argmax(1) == y).sum()) for x, y in HubDataLoader(test, batch_size=256))
    print(f"recognises {right / len(test):.1%} of {len(test)} test pictures")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoint.pt"))
    parser.add_argument("--stop-after", type=int, help="stop after so many steps, as if killed")
    main(parser.parse_args())
