"""A tiny stage 2 that draws random numbers wherever a real one does."""

from __future__ import annotations

import pytest
import torch
from monai.engines import SupervisedEvaluator
from monai.handlers import ValidationHandler
from torch import nn

from cps4_monai.engines import SemiSupervisedTrainer
from cps4_monai.handlers import BestWeights, EarlyStop, EpochSeed, ResumeHandler
from cps4_monai.methods import CPS4
from cps4_monai.networks import ResUNet


class RandomLoader:
    """Batches drawn from torch's global generator, as augmentation in the main process would."""

    def __init__(self, length=3):
        self.length, self.epochs = length, []

    def __len__(self):
        return self.length

    def set_epoch(self, epoch):
        self.epochs.append(epoch)

    def __iter__(self):
        for index in range(self.length):
            image, label = torch.rand(4, 1, 8, 8), torch.randint(0, 3, (4, 1, 8, 8))
            yield {
                "labeled": {
                    "image": image[:2],
                    "label": label[:2].to(torch.uint8),
                    "subject": [f"sub-{index}", "sub-x"],
                    "slice_index": [index, 9],
                },
                "unlabeled": {"image": image[2:], "prompt_map": label[2:]},
            }


class Score:
    """An ignite metric that reports given values, one a validation."""

    def __init__(self, values):
        self.values = values

    def attach(self, engine, name):
        @engine.on("EPOCH_COMPLETED")
        def report(engine):
            engine.state.metrics[name] = self.values[engine.state.epoch - 1]


class Run:
    """Everything of one run, wired as the bundle does it."""

    def __init__(
        self,
        folder,
        epochs=4,
        scores=None,
        handlers=(),
        patience=None,
        settings=None,
        loader=None,
        files=None,
        since=(),
    ):
        torch.manual_seed(0)
        student = ResUNet(1, 3, features=(4, 8))
        student.head = nn.Sequential(nn.Dropout(0.2), student.head)
        optimizer = torch.optim.Adam(student.parameters(), lr=1e-2)
        self.method = CPS4(student, optimizer)
        self.scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 3], gamma=0.2)
        scores = [0.1 * (epoch + 1) for epoch in range(epochs)] if scores is None else scores
        self.best = BestWeights(folder / "model.pt", self.method.deployed)
        volume = {"image": torch.zeros(1, 1, 8, 8), "label": torch.zeros(1, 1, 8, 8)}
        self.evaluator = SupervisedEvaluator(
            "cpu", [volume], self.method.deployed, key_val_metric={"dice": Score(scores)}, val_handlers=[self.best]
        )
        states = {"method": self.method, "scheduler": self.scheduler, "best": self.best}
        chain = [EpochSeed(7), *handlers, ValidationHandler(1, self.evaluator)]
        if patience is not None:
            states["early_stop"] = EarlyStop(self.evaluator, patience)
            chain.append(states["early_stop"])
        self.resume = ResumeHandler(
            folder / "resume.pt", states, {"seed": 7} if settings is None else settings, files, since
        )
        self.trainer = SemiSupervisedTrainer("cpu", epochs, loader or RandomLoader(), self.method, train_handlers=chain)
        self.trainer.add_event_handler("EPOCH_COMPLETED", lambda _: self.scheduler.step())
        self.resume.attach(self.trainer)

    def run(self):
        self.trainer.run()
        self.drawn = torch.rand(3).tolist()  # what the generators hold now, before another run uses them
        return self

    def bits(self):
        """All that must not differ between a resumed and an uninterrupted run."""
        state = self.method.state_dict()
        flat = {f"{n}.{k}": v for n, net in state["networks"].items() for k, v in net.items()}
        moments = state["optimizers"]["student"]["state"]
        flat |= {f"adam.{i}.{k}": v for i, one in moments.items() for k, v in one.items()}
        return flat, {
            "lr": self.scheduler.get_last_lr(),
            "scheduler": self.scheduler.state_dict(),
            "updates": self.method.updates,
            "best": (self.best.best_score, self.best.best_epoch),
            "evaluator": (self.evaluator.state.best_metric, self.evaluator.state.best_metric_epoch),
            "place": (self.trainer.state.epoch, self.trainer.state.iteration),
            "random": self.drawn,
        }


@pytest.fixture
def make_run():
    return Run
