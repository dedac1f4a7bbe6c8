"""Writes the images that critest asks for, under their real names: critest.py BUSYBOX NGINX ARCHITECTURE DIRECTORY.

Each holds what the specs run in it, and no more: busybox with its applets, and beside it the programs of this machine
that busybox lacks, with the libraries that they load. No two images are the same
but where a spec wants them to be, since some specs remove theirs.
"""

import os
import pathlib
import shutil
import subprocess
import sys

from oci import Layout, directory, file, hard_link, tar

E2E = "registry.k8s.io/e2e-test-images"
STAGING = "gcr.io/k8s-staging-cri-tools"

PASSWD = """root:x:0:0:root:/root:/bin/sh
www-data:x:33:33:www-data:/var/www:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
"""
GROUP = "root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n"
PREDEFINED_PASSWD = PASSWD + "default-user:x:1000:1000::/home:/bin/sh\n"
PREDEFINED_GROUP = GROUP + "default-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n"

NGINX_CONF = """worker_processes 1;
user nobody nogroup;
pid /var/run/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    server {{
        listen {port};
        root /www;
    }}
}}
"""

HTTPD = """#!/bin/sh
trap 'kill $!; exit 0' TERM
httpd -f -p 80 -h /www &
echo "httpd: serving /www on 80"
wait $!
"""

# Linux takes no set-user-ID from a script, so a program says which rights it has.
EFFECTIVE_UID = """#!/bin/sh
echo "Effective uid: $(/bin/privileged-id -u)"
"""


def programs(paths):
    """Programs, {path in the image: path here}, with the libraries that they load and the directories of all."""
    files = {path: pathlib.Path(source).read_bytes() for path, source in paths.items()}
    for source in paths.values():
        files.update(libraries(source))
    parents = {str(parent) for path in files for parent in pathlib.PurePath(path).parents} - {".", "bin"}
    yield from map(directory, parents)
    yield from (file(path, data, 0o755) for path, data in files.items())


def libraries(program):
    """What the loader says that it loads, and the loader itself."""
    listed = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    if "not found" in listed:
        sys.exit(f"{program} lacks a library:\n{listed}")
    paths = [word for line in listed.splitlines() for word in line.split() if word.startswith("/")]
    return {path.lstrip("/"): pathlib.Path(path).read_bytes() for path in paths}


def here(program):
    return os.path.realpath(shutil.which(program) or sys.exit(f"no {program} on this machine"))


def base_files(busybox):
    """Every applet is a file of its own: a spec that masks one path must not hide the others. (Nor must the shell run
    applets out of itself, as that of busybox-static does.)"""
    real = ["pgrep", "ipcs"]
    applets = subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True).stdout.split()
    yield from map(directory, ["bin", "dev", "etc", "home", "proc", "root", "run", "sys", "var", "var/lib", "var/log"])
    yield directory("var/run")
    yield directory("tmp", 0o1777)
    yield from programs({"bin/busybox": busybox, **{f"bin/{name}": here(name) for name in real}})
    yield from (hard_link(f"bin/{applet}", "bin/busybox") for applet in applets if applet not in {*real, "busybox"})
    yield file("etc/passwd", PASSWD)
    yield file("etc/group", GROUP)


def nginx_files(nginx, port):
    yield from programs({"usr/sbin/nginx": nginx})
    yield from map(directory, ["etc", "etc/nginx", "var", "var/lib", "var/lib/nginx", "var/log", "var/log/nginx", "www"])
    yield file("etc/nginx/nginx.conf", NGINX_CONF.format(port=port))
    yield file("www/index.html", "hello from nginx\n")


def httpd_files():
    yield directory("www")
    yield file("www/index.html", "hello from httpd\n")
    yield file("bin/serve", HTTPD, 0o755)


def setuid_files():
    for entry in programs({"bin/privileged-id": here("id")}):
        if isinstance(entry, tuple) and entry[0].name == "bin/privileged-id":
            entry[0].mode = 0o4755
        yield entry
    yield file("bin/effective-uid", EFFECTIVE_UID, 0o755)


def marked(name):
    """A layer that makes an image different from all others."""
    return tar([file(name, f"{name}\n")])


def main(busybox, nginx, architecture, out):
    base = tar(base_files(busybox))
    shell, serve_nginx = {"Cmd": ["sh"]}, {"Cmd": ["nginx", "-e", "stderr", "-g", "daemon off;"]}
    predefined = tar([file("etc/passwd", PREDEFINED_PASSWD), file("etc/group", PREDEFINED_GROUP)])

    def image(names, layers, config):
        layout = Layout(pathlib.Path(out, names[0].split("/")[-1].replace(":", "-")))
        layout.image([name if ":" in name else f"{name}:latest" for name in names], architecture, layers, "gzip", config)

    image([f"{E2E}/nginx:1.14-2"], [base, tar(nginx_files(nginx, 80))], serve_nginx)
    image([f"{STAGING}/hostnet-nginx-{architecture}"], [base, tar(nginx_files(nginx, 12003))], serve_nginx)
    image([f"{E2E}/httpd:2.4.39-4"], [base, tar(httpd_files())], {"Cmd": ["serve"]})
    image([f"{E2E}/nonewprivs:1.3"], [base, tar(setuid_files())], {"Entrypoint": ["effective-uid"]})
    # Some runtimes run it as process 1 of a pod; one of the specs looks for processes called sleep, and wants none.
    pause = {"Cmd": ["tail", "-f", "/dev/null"]}
    image(["registry.k8s.io/pause:3.9", "k8s.gcr.io/pause:3.9"], [base, marked("pause")], pause)
    for mark in ["1", "2", "3", "latest", "digest"]:
        image([f"{STAGING}/test-image-{mark}"], [base, marked(mark)], shell)
    for tag in ["test", "all"]:
        image([f"{STAGING}/test-image-tag:{tag}"], [base, marked(f"tag-{tag}")], shell)
    image([f"{STAGING}/test-image-tags:{tag}" for tag in "123"], [base, marked("tags")], shell)
    for name, user in {
        "uid": "1002",
        "username": "www-data",
        "uid-group": "1003:1004",
        "username-group": "www-data:1004",
    }.items():
        image([f"{STAGING}/test-image-user-{name}"], [base], {**shell, "User": user})
    image([f"{STAGING}/test-image-predefined-group"], [base, predefined], {**shell, "User": "1000"})

    # The image of most specs is one for several platforms, of which only the fitting one can run.
    layout = Layout(pathlib.Path(out, "busybox-1.29-2"))
    other = "arm64" if architecture == "amd64" else "amd64"
    manifests = {
        other: layout.manifest(other, [marked("other")], "gzip", shell),
        architecture: layout.manifest(architecture, [base], "gzip", shell),
    }
    layout.name([f"{E2E}/busybox:1.29-2"], layout.index(manifests))


main(*sys.argv[1:])
