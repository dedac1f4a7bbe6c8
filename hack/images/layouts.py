"""Writes the images that hack/images/build names as OCI image layouts: layouts.py BUSYBOX ARCHITECTURE DIRECTORY.

Everything that could differ from one build to the next is fixed: owners, times, the order of files and keys.
"""

import gzip
import hashlib
import io
import json
import pathlib
import subprocess
import sys
import tarfile

EPOCH = 946684800  # 2000-01-01, in every file
CREATED = "2000-01-01T00:00:00Z"
OCI = "application/vnd.oci.image"
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

PASSWD = "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000:web:/home/web:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"
GROUP = "root:x:0:\nweb:x:1000:\nstaff:x:50:web\nnogroup:x:65534:\n"

# As process 1 httpd itself would not see a signal: the kernel gives process 1 only those that it handles.
SERVE = """#!/bin/sh
trap 'echo "web: stopping"; kill $!; exit 0' TERM QUIT
httpd -f -v -p "${LISTEN:-8080}" -h /www &
echo "web: serving /www on ${LISTEN:-8080}"
wait $!
"""


def directory(path, mode=0o755, owner=0):
    return tar_entry(path, tarfile.DIRTYPE, mode, owner)


def file(path, data, mode=0o644):
    return tar_entry(path, tarfile.REGTYPE, mode), data if isinstance(data, bytes) else data.encode()


def link(path, target):
    return tar_entry(path, tarfile.SYMTYPE, 0o777, target=target)


def tar_entry(path, kind, mode, owner=0, target=""):
    entry = tarfile.TarInfo(path)
    entry.type, entry.mode, entry.mtime, entry.linkname = kind, mode, EPOCH, target
    entry.uid = entry.gid = owner
    return entry


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
    yield file("bin/serve", SERVE, 0o755)
    yield file("etc/.wh.motd", "")


def tar(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        pairs = [entry if isinstance(entry, tuple) else (entry, b"") for entry in files]
        for entry, data in sorted(pairs, key=lambda pair: pair[0].name):
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def zstd(data):
    return subprocess.run(["zstd", "-q", "-19"], input=data, check=True, capture_output=True).stdout


COMPRESS = {"gzip": lambda data: gzip.compress(data, mtime=0), "zstd": zstd}


class Layout:
    """An OCI image layout with one image."""

    def __init__(self, path):
        self.path = path
        (path / "blobs/sha256").mkdir(parents=True)

    def blob(self, media_type, data, **more):
        """Stores bytes and returns their descriptor."""
        digest = hashlib.sha256(data).hexdigest()
        (self.path / "blobs/sha256" / digest).write_bytes(data)
        return {"mediaType": f"{OCI}.{media_type}", "digest": f"sha256:{digest}", "size": len(data), **more}

    def image(self, name, architecture, layers, compression, config):
        config = {
            "architecture": architecture,
            "os": "linux",
            "created": CREATED,
            "config": {"Env": [PATH], **config},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in layers]},
            "history": [{"created": CREATED, "created_by": "hack/images/build"} for _ in layers],
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{OCI}.manifest.v1+json",
            "config": self.blob("config.v1+json", as_json(config)),
            "layers": [self.blob(f"layer.v1.tar+{compression}", COMPRESS[compression](tar)) for tar in layers],
        }
        names = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}
        platform = {"architecture": architecture, "os": "linux"}
        index = {
            "schemaVersion": 2,
            "mediaType": f"{OCI}.index.v1+json",
            "manifests": [
                self.blob("manifest.v1+json", as_json(manifest), platform=platform, annotations=names),
            ],
        }
        (self.path / "index.json").write_bytes(as_json(index))
        (self.path / "oci-layout").write_bytes(as_json({"imageLayoutVersion": "1.0.0"}))


def as_json(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def main(busybox, architecture, out):
    base, web = tar(base_files(busybox)), tar(web_files())
    labels = {"org.opencontainers.image.title": "web", "org.opencontainers.image.source": "hack/images"}
    shell = {"Cmd": ["sh"]}
    serve = {"Cmd": ["serve"], "ExposedPorts": {"8080/tcp": {}}, "Labels": labels, "StopSignal": "SIGQUIT"}
    unprivileged = {**serve, "User": "web", "WorkingDir": "/home/web"}
    volume = {**serve, "Volumes": {"/data": {}}}
    for directory_name, name, layers, compression, config in [
        ("busybox", "busybox:latest", [base], "gzip", shell),
        ("web", "web:latest", [base, web], "gzip", serve),
        ("web-unprivileged", "web:unprivileged", [base, web], "gzip", unprivileged),
        ("web-zstd", "web:zstd", [base, web], "zstd", volume),
    ]:
        layout = Layout(pathlib.Path(out, directory_name))
        layout.image(f"localhost/berth/{name}", architecture, layers, compression, config)


main(*sys.argv[1:])
