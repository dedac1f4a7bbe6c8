"""Writes the images that hack/images/build names: layouts.py BUSYBOX ARCHITECTURE DIRECTORY."""

import pathlib
import subprocess
import sys

from oci import Layout, directory, file, link, tar

PASSWD = "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000:web:/home/web:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"
GROUP = "root:x:0:\nweb:x:1000:\nstaff:x:50:web\nnogroup:x:65534:\n"

# As process 1 httpd itself would not see a signal: the kernel gives process 1 only those that it handles.
SERVE = """#!/bin/sh
trap 'echo "web: stopping"; kill $!; exit 0' TERM QUIT
httpd -f -v -p "${LISTEN:-8080}" -h /www &
echo "web: serving /www on ${LISTEN:-8080}"
wait $!
"""


def base_files(busybox):
    applets = subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True).stdout.split()
    yield from map(directory, ["bin", "dev", "etc", "home", "proc", "root", "sys", "usr", "usr/bin", "var"])
    yield directory("tmp", 0o1777)
    yield directory("home/web", owner=1000)
    yield link("usr/bin/env", "../../bin/busybox")
    yield from (link(f"bin/{applet}", "busybox") for applet in applets if applet != "busybox")
    yield file("bin/busybox", pathlib.Path(busybox).read_bytes(), 0o755)
    yield file("etc/passwd", PASSWD)
    yield file("etc/group", GROUP)
    yield file("etc/motd", "The base image's, removed by web.\n")


def web_files():
    yield directory("www")
    yield file("www/index.html", "hello from web\n")
    yield link("www/start.html", "index.html")
    yield file("bin/serve", SERVE, 0o755)
    yield file("etc/.wh.motd", "")


def main(busybox, architecture, out):
    base, web = tar(base_files(busybox)), tar(web_files())
    labels = {"org.opencontainers.image.title": "web", "org.opencontainers.image.source": "hack/images"}
    shell = {"Cmd": ["sh"]}
    serve = {"Cmd": ["serve"], "ExposedPorts": {"8080/tcp": {}}, "Labels": labels, "StopSignal": "SIGQUIT"}
    unprivileged = {**serve, "User": "web", "WorkingDir": "/home/web"}
    volume = {**serve, "Volumes": {"/data": {}, "/home/web": {}, "/www": {}}}
    for directory_name, name, layers, compression, config in [
        ("busybox", "busybox:latest", [base], "gzip", shell),
        ("web", "web:latest", [base, web], "gzip", serve),
        ("web-unprivileged", "web:unprivileged", [base, web], "gzip", unprivileged),
        ("web-zstd", "web:zstd", [base, web], "zstd", volume),
    ]:
        layout = Layout(pathlib.Path(out, directory_name))
        layout.image([f"localhost/berth/{name}"], architecture, layers, compression, config)


main(*sys.argv[1:])
