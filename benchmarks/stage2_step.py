"""Time of a CPS4 training step over a Mean Teacher step: same network, batch and device, in turns in one run.

The CPS4 step includes the frozen ViT and the prompt map of every unlabeled image. Targets (issue 2, section 11): at
most 1.25 on a CPU and 1.05 on a GPU, at the paper's sizes, which are the default.

    python benchmarks/stage2_step.py --device cpu --steps 5
    python benchmarks/stage2_step.py --device cuda --amp --steps 50
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time

import torch
from ignite.engine import Events

from cps4_monai.engines import SemiSupervisedTrainer
from cps4_monai.handlers import PromptMapHandler
from cps4_monai.methods import CPS4, MeanTeacher, TeacherStudent
from cps4_monai.networks import ResUNet
from cps4_monai.precision import Precision
from cps4_monai.prompt_map.mapper import PromptMapper
from cps4_monai.prompt_map.provider import VLMProvider
from cps4_monai.vision.encoder import VisionEncoder
from cps4_monai.vision.prompted import PromptedVision


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", type=int, nargs=2, default=(512, 256), metavar=("H", "W"))
    parser.add_argument("--features", type=int, nargs="+", default=(32, 64, 128, 256, 512))
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--batch", type=int, nargs=2, default=(4, 4), metavar=("LABELED", "UNLABELED"))
    parser.add_argument("--vit", default="vit_base_patch16_224")
    parser.add_argument("--embedding", type=int, default=512)
    parser.add_argument("--steps", type=int, default=10, help="measured steps of each method")
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--amp", action="store_true")
    parser.add_argument("--amp-dtype", choices=("float16", "bfloat16"), help="force a type; default: the device's own")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def batch(options: argparse.Namespace) -> dict:
    labeled, unlabeled = options.batch
    image = torch.rand(labeled + 2 * unlabeled, 1, *options.size)
    label = torch.randint(0, options.classes, (labeled, 1, *options.size), dtype=torch.uint8)
    weak, strong = image[labeled:].split(unlabeled)
    return {
        "labeled": {"image": image[:labeled], "label": label},
        "unlabeled": {"image": weak, "image_strong": strong},
    }


class Contestant:
    """One trainer that is run a step at a time."""

    def __init__(self, method: type[TeacherStudent], options: argparse.Namespace, handlers: list) -> None:
        torch.manual_seed(options.seed)
        network = ResUNet(1, options.classes, options.features).to(options.device)
        fused = torch.device(options.device).type == "cuda"
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, weight_decay=1e-4, fused=fused)
        total = options.warm_up + options.steps
        self.trainer = SemiSupervisedTrainer(
            options.device,
            1,
            [batch(options)] * total,
            method(network, optimizer),
            train_handlers=handlers,
            precision=Precision(options.device, options.amp, options.amp_dtype),
        )
        self.trainer.interrupt_resume_enabled = True
        self.trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: engine.interrupt())
        self.seconds: list[float] = []
        self.peak_bytes = 0

    def step(self, device: torch.device) -> None:
        cuda = device.type == "cuda"
        if cuda:
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
        start = time.perf_counter()
        self.trainer.run()
        if cuda:
            torch.cuda.synchronize(device)
            self.peak_bytes = max(self.peak_bytes, torch.cuda.max_memory_allocated(device))
        self.seconds.append(time.perf_counter() - start)


def main() -> None:
    options = arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    encoder = VisionEncoder(options.vit, options.size, pretrained=False)
    prompts = torch.randn(options.classes, options.embedding)
    vision = PromptedVision(encoder, prompts).to(device)
    provider = VLMProvider(vision, PromptMapper().to(device))
    contestants = {
        "mean_teacher": Contestant(MeanTeacher, options, []),
        "cps4": Contestant(CPS4, options, [PromptMapHandler(provider)]),
    }
    for _ in range(options.warm_up + options.steps):
        for contestant in contestants.values():
            contestant.step(device)
    for contestant in contestants.values():
        contestant.trainer.run()  # to its end: only now does the engine see that its last step was the last
    medians = {name: statistics.median(one.seconds[options.warm_up :]) for name, one in contestants.items()}
    parameters = sum(p.numel() for p in contestants["cps4"].trainer.method.deployed.parameters())
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{where}; torch {torch.__version__}; {contestants['cps4'].trainer.precision.name}; seed {options.seed}")
    print(
        f"batch {tuple(options.batch)}, {tuple(options.size)} pixels, network {parameters / 1e6:.1f} M, {options.vit}"
    )
    print(f"{'method':14} {'ms/step':>10} {'min':>10} {'max':>10} {'peak GiB':>10}")
    for name, one in contestants.items():
        measured = [1000 * seconds for seconds in one.seconds[options.warm_up :]]
        peak = f"{one.peak_bytes / 2**30:.2f}" if device.type == "cuda" else "-"
        print(f"{name:14} {1000 * medians[name]:10.1f} {min(measured):10.1f} {max(measured):10.1f} {peak:>10}")
    print(f"ratio cps4 / mean_teacher: {medians['cps4'] / medians['mean_teacher']:.3f}")
    print(f"peak memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
