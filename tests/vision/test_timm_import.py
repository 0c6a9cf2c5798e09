"""timm beside a torchvision whose compiled operators do not load, as with a torch for CPUs."""

from __future__ import annotations

import subprocess
import sys

# Loading the library of operators fails, as it does where CUDA's libraries are not there.
WITHOUT_OPERATORS = """
import torch
real = torch.ops.load_library
def load_library(path):
    if "torchvision" in str(path):
        raise OSError("libcudart.so: cannot open shared object file")
    return real(path)
torch.ops.load_library = load_library
"""


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", WITHOUT_OPERATORS + program], capture_output=True, text=True)


def test_the_import_of_torchvision_alone_fails_there() -> None:
    done = run("import torchvision")
    assert done.returncode == 1 and "torchvision::nms" in done.stderr


def test_a_vit_works_without_them() -> None:
    done = run(
        "from cps4_monai.vision import VisionEncoder\n"
        "sizes = {'embed_dim': 16, 'depth': 1, 'num_heads': 2}\n"
        "encoder = VisionEncoder('vit_tiny_patch16_224', (32, 32), pretrained=False, **sizes)\n"
        "print(tuple(encoder(torch.zeros(1, 1, 32, 32)).shape))\n"
        "try:\n"
        "    torch.ops.torchvision.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)\n"
        "except NotImplementedError:\n"
        "    print('no computation')"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == ["(1, 16, 2, 2)", "no computation"]
