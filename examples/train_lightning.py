"""Train with Lightning on pictures in class folders, streamed from the hub; its checkpoints resume in the middle.

Needs lightning and what ``train_pytorch.py`` needs. Lightning keeps the loader's state in its checkpoints by itself,
and leaves order and ranks to the loader.
"""

import argparse

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from dsx import DatasetHubClient
from dsx.torch import HubDataLoader, HubDataset


def to_tensor(image):
    """Return a picture as 64 numbers from 0 to 1."""
    return torch.from_numpy(np.asarray(image.convert("L"), dtype=np.float32).ravel() / 255)


class Digits(lightning.LightningModule):
    """A small network."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))

    def training_step(self, batch):
        """Return the loss of a batch."""
        pictures, labels = batch
        return nn.functional.cross_entropy(self.layers(pictures), labels)

    def configure_optimizers(self):
        """Return what improves the weights."""
        return torch.optim.Adam(self.parameters(), lr=2e-3)


def main(options):
    """Train, or go on from a checkpoint."""
    lightning.seed_everything(0)
    train = HubDataset(DatasetHubClient(cache_dir=None), options.dataset, include="train/**", transform=to_tensor)
    loader = HubDataLoader(train, batch_size=32, shuffle=True, seed=1)
    keep = ModelCheckpoint(
        options.checkpoints, filename="{step}", every_n_train_steps=20, save_top_k=-1, save_last=True
    )
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=options.epochs,
        max_steps=options.stop_after,
        callbacks=[keep],
        logger=False,
        enable_progress_bar=False,
    )
    trainer.fit(Digits(), loader, ckpt_path=options.resume)
    print(f"{trainer.global_step} steps, kept in {keep.last_model_path}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--checkpoints", default="checkpoints", help="folder for what is kept every 20 steps")
    parser.add_argument("--resume", help="a checkpoint to go on from")
    parser.add_argument("--stop-after", type=int, default=-1, help="stop after so many steps")
    main(parser.parse_args())
