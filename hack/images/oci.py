"""Writes OCI image layouts, the same to the byte from the same files.

Everything that could differ from one build to the next is fixed: owners, times, the order of files and keys.
"""

import functools
import gzip
import hashlib
import io
import json
import subprocess
import tarfile

EPOCH = 946684800  # 2000-01-01, in every file
CREATED = "2000-01-01T00:00:00Z"
OCI = "application/vnd.oci.image"
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def directory(path, mode=0o755, owner=0):
    return tar_entry(path, tarfile.DIRTYPE, mode, owner)


def file(path, data, mode=0o644):
    return tar_entry(path, tarfile.REGTYPE, mode), data if isinstance(data, bytes) else data.encode()


def link(path, target):
    return tar_entry(path, tarfile.SYMTYPE, 0o777, target=target)


def hard_link(path, target):
    """Another name of a file of the same layer."""
    return tar_entry(path, tarfile.LNKTYPE, 0o755, target=target)


def tar_entry(path, kind, mode, owner=0, target=""):
    entry = tarfile.TarInfo(path)
    entry.type, entry.mode, entry.mtime, entry.linkname = kind, mode, EPOCH, target
    entry.uid = entry.gid = owner
    return entry


def tar(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        pairs = [entry if isinstance(entry, tuple) else (entry, b"") for entry in files]
        # A hard link comes after the file that it names.
        for entry, data in sorted(pairs, key=lambda pair: (pair[0].type == tarfile.LNKTYPE, pair[0].name)):
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def zstd(data):
    return subprocess.run(["zstd", "-q", "-19"], input=data, check=True, capture_output=True).stdout


@functools.cache
def compressed(compression, data):
    """Many images share a layer."""
    return COMPRESS[compression](data)


COMPRESS = {"gzip": lambda data: gzip.compress(data, mtime=0), "zstd": zstd}


class Layout:
    """An OCI image layout with one image under any number of names."""

    def __init__(self, path):
        self.path = path
        (path / "blobs/sha256").mkdir(parents=True)

    def blob(self, media_type, data, **more):
        """Stores bytes and returns their descriptor."""
        digest = hashlib.sha256(data).hexdigest()
        (self.path / "blobs/sha256" / digest).write_bytes(data)
        return {"mediaType": f"{OCI}.{media_type}", "digest": f"sha256:{digest}", "size": len(data), **more}

    def image(self, names, architecture, layers, compression, config):
        """Makes the image and names it."""
        platform = {"architecture": architecture, "os": "linux"}
        self.name(names, self.manifest(architecture, layers, compression, config), platform=platform)

    def manifest(self, architecture, layers, compression, config):
        """Stores an image of one platform and returns its descriptor."""
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
            "layers": [self.blob(f"layer.v1.tar+{compression}", compressed(compression, tar)) for tar in layers],
        }
        return self.blob("manifest.v1+json", as_json(manifest))

    def index(self, manifests):
        """Stores an image of several platforms, {architecture: descriptor}, and returns its descriptor."""
        listed = [
            {**descriptor, "platform": {"architecture": architecture, "os": "linux"}}
            for architecture, descriptor in manifests.items()
        ]
        return self.blob("index.v1+json", as_json(index_of(listed)))

    def name(self, names, descriptor, **more):
        """Makes what a descriptor leads to the layout's image."""
        listed = [
            {
                **descriptor,
                **more,
                "annotations": {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name},
            }
            for name in names
        ]
        (self.path / "index.json").write_bytes(as_json(index_of(listed)))
        (self.path / "oci-layout").write_bytes(as_json({"imageLayoutVersion": "1.0.0"}))


def index_of(manifests):
    return {"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": manifests}


def as_json(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
