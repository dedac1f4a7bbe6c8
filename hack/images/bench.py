"""Writes the images that only hack/bench needs: bench.py CATATONIT ARCHITECTURE DIRECTORY.

Those to pull hold files whose content shrinks to half its size, in one layer, in twenty and in eighty. They are packed as
fast as registries are usually fed, since nobody is waiting for a smaller one here.
"""

import gzip
import pathlib
import random
import subprocess
import sys

import oci
from oci import Layout, directory, file, tar

oci.COMPRESS = {
    "gzip": lambda data: gzip.compress(data, compresslevel=6, mtime=0),
    "zstd": lambda data: subprocess.run(["zstd", "-q", "-3"], input=data, check=True, capture_output=True).stdout,
}

# By name: how many layers, how many files in each, and how large one is.
PULLED = {"one-layer": (1, 1600, 50_000), "twenty-layers": (20, 80, 50_000), "eighty-layers": (80, 20, 25_000)}


def files(numbers, layer, count, size):
    yield directory("data")
    yield directory(f"data/{layer}")
    # Two digits for each random byte.
    yield from (file(f"data/{layer}/{number}", numbers.randbytes(size // 2).hex()) for number in range(count))


def main(catatonit, architecture, out):
    pause = tar([file("pause", pathlib.Path(catatonit).read_bytes(), 0o755)])
    layout = Layout(pathlib.Path(out, "pause"))
    layout.image(["localhost/berth/pause:latest"], architecture, [pause], "gzip", {"Entrypoint": ["/pause", "-P"]})
    numbers = random.Random(1)
    for name, (count, *layer_of) in PULLED.items():
        layers = [tar(files(numbers, layer, *layer_of)) for layer in range(count)]
        for compression in oci.COMPRESS:
            layout = Layout(pathlib.Path(out, f"{name}-{compression}"))
            layout.image([f"localhost/berth/{name}:{compression}"], architecture, layers, compression, {})


main(*sys.argv[1:])
