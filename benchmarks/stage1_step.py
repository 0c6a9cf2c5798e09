"""Time and peak memory of a stage-1 step at the paper's sizes; prints a table.

    python benchmarks/stage1_step.py [--device cpu] [--batch 8] [--size 512 256] [--steps 2] [--amp]

ViT-B/16 and a text encoder of BERT-base's size, both with random weights: they cost what the trained ones cost.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time

import torch

from cps4_monai.anatomy import MRSPINESEG
from cps4_monai.losses.attention import AttentionLoss
from cps4_monai.precision import Precision
from cps4_monai.text import TextEncoder, write_tiny_text_encoder
from cps4_monai.vision import VisionEncoder
from cps4_monai.vlm import VisionLanguageModel

GIBIBYTE = 1024**3


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", type=int, nargs=2, default=(512, 256), metavar=("H", "W"))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--vit", default="vit_base_patch16_224")
    parser.add_argument("--steps", type=int, default=2, help="measured steps, after one to warm up")
    parser.add_argument("--amp", action="store_true")
    parser.add_argument("--amp-dtype", choices=("float16", "bfloat16"), help="force a type; default: the device's own")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    device = torch.device(arguments.device)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        write_tiny_text_encoder(folder, MRSPINESEG.prompts, hidden_size=768, num_layers=12, num_heads=12)
        text = TextEncoder(folder)
    vision = VisionEncoder(arguments.vit, image_size=arguments.size, pretrained=False)
    model = VisionLanguageModel(vision, text, MRSPINESEG.prompts).to(device).train()
    optimizer = torch.optim.Adam(model.parameter_groups(), fused=device.type == "cuda")
    precision, loss_function = Precision(device, arguments.amp, arguments.amp_dtype), AttentionLoss()
    scaler = precision.new_scaler()
    image = torch.rand(arguments.batch, 1, *arguments.size, device=device)
    label = torch.randint(0, MRSPINESEG.num_classes, (arguments.batch, 1, *arguments.size), device=device)
    seconds = []
    for _ in range(arguments.steps + 1):
        started = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with precision.autocast():
            logits = model(image)
        loss = loss_function(logits, label)
        (loss if scaler is None else scaler.scale(loss)).backward()
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIBIBYTE
    print(f"{device}, {torch.get_num_threads()} threads; torch {torch.__version__}; {precision.name}; {millions:.0f} M")
    print(f"batch {arguments.batch}, {tuple(arguments.size)} pixels")
    print(f"step: {min(seconds[1:]):.2f} to {max(seconds[1:]):.2f} s; peak memory of the process: {process:.2f} GiB")
    if device.type == "cuda":
        print(f"peak memory on the GPU: {torch.cuda.max_memory_allocated() / GIBIBYTE:.2f} GiB")


if __name__ == "__main__":
    main()
