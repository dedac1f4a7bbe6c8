"""Writes the images that only hack/bench needs: bench.py CATATONIT ARCHITECTURE DIRECTORY."""

import pathlib
import sys

from oci import Layout, file, tar


def main(catatonit, architecture, out):
    pause = tar([file("pause", pathlib.Path(catatonit).read_bytes(), 0o755)])
    layout = Layout(pathlib.Path(out, "pause"))
    layout.image(["localhost/berth/pause:latest"], architecture, [pause], "gzip", {"Entrypoint": ["/pause", "-P"]})


main(*sys.argv[1:])
