//! Images of one layer, of twenty and of eighty, packed by gzip and by zstd: pulled from a registry on loopback, and
//! imported from an archive.
//!
//! What makes containers has no part in it, so each kind of server takes part once. A runtime that was given does not: its
//! loopback is the machine's.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use berth_cri_proto::v1::{ImageSpec, PullImageRequest, RemoveImageRequest};
use berth_e2e::{REGISTRY, Running, repository, run, serve_images};
use rustix::process::Signal;

use super::Bench;
use crate::measure::Cpu;
use crate::peer::{Home, Peer};
use crate::report::{Findings, Unit};

/// By the names that `hack/images/build bench` gives them: how many layers they have.
const IMAGES: [(&str, usize); 3] = [("one-layer", 1), ("twenty-layers", 20), ("eighty-layers", 80)];

/// How long a pull may take, on a disk that others keep busy.
const PULL: Duration = Duration::from_secs(600);
/// How long a registry may take to end.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) fn measure(bench: &Bench, findings: &mut Findings) -> Result<()> {
    let (rounds, images) = bench.effort.pick((1, &IMAGES[1..2]), (3, &IMAGES[..]), (10, &IMAGES[..]));
    let peers: Vec<_> = bench.servers().filter_map(|peer| Some((peer, peer.home.as_ref()?))).collect();
    let registries: Vec<Running> = peers.iter().map(|(_, home)| serve(home, images)).collect();
    for (image, layers) in images {
        findings.at([("layers", *layers)]);
        for compression in ["gzip", "zstd"] {
            for (peer, _) in peers.iter().cycle().take(rounds * peers.len()) {
                pull(peer, image, compression, findings).with_context(|| peer.name.clone())?;
            }
        }
        for (peer, home) in peers.iter().cycle().take(rounds * peers.len()) {
            import(peer, home, image, findings).with_context(|| peer.name.clone())?;
        }
    }
    registries.into_iter().try_for_each(end)
}

fn layout(image: &str, compression: &str) -> PathBuf {
    repository().join("hack/images/out-bench").join(format!("{image}-{compression}"))
}

fn serve(home: &Home, images: &[(&str, usize)]) -> Running {
    let layouts = images.iter().flat_map(|(image, _)| ["gzip", "zstd"].map(|packed| layout(image, packed)));
    serve_images(home.site(), &home.dir().join("registry.log"), &layouts.collect::<Vec<_>>())
}

fn pull(peer: &Peer, image: &str, compression: &str, findings: &mut Findings) -> Result<()> {
    let mut cri = peer.cri()?;
    cri.set_deadline(PULL);
    let name = ImageSpec { image: format!("{REGISTRY}/berth/{image}:{compression}"), ..Default::default() };
    let (cpu, before) = (Cpu::of(peer)?, Cpu::of(peer)?.used()?);
    let begun = Instant::now();
    cri.pull_image(PullImageRequest { image: Some(name.clone()), ..Default::default() })
        .context("PullImage")?;
    findings.time(&peer.name, &format!("pull, {compression}"), begun.elapsed());
    let used = cpu.used()?.saturating_sub(before).as_secs_f64() * 1e3;
    findings.note(&peer.name, &format!("CPU of a pull, {compression}"), Unit::CpuMs, used);
    cri.remove_image(RemoveImageRequest { image: Some(name) }).context("RemoveImage")?;
    Ok(())
}

/// With the runtime's own command, as somebody would who has an archive.
fn import(peer: &Peer, home: &Home, image: &str, findings: &mut Findings) -> Result<()> {
    let Some((program, arguments)) = peer.import.split_first() else { return Ok(()) };
    let archive = archive(home.dir(), &layout(image, "gzip"));
    let begun = Instant::now();
    run(home.site().command(program).args(arguments).arg(&archive));
    findings.time(&peer.name, "import, gzip", begun.elapsed());
    let name = ImageSpec { image: format!("localhost/berth/{image}:gzip"), ..Default::default() };
    peer.cri()?.remove_image(RemoveImageRequest { image: Some(name) }).context("RemoveImage")?;
    std::fs::remove_file(&archive).with_context(|| format!("remove {}", archive.display()))
}

fn archive(directory: &Path, layout: &Path) -> PathBuf {
    let archive = directory.join("import.tar");
    run(Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(layout).arg("."));
    archive
}

fn end(mut registry: Running) -> Result<()> {
    registry.signal(Signal::TERM);
    match registry.wait(PATIENCE) {
        Some(_) => Ok(()),
        None => bail!("the registry did not end: {}", registry.output()),
    }
}
