//! berth itself, as it is shipped but for names and places.

use std::path::Path;

use anyhow::{Context, Result, bail};
use berth_e2e::{REGISTRY, repository, run};

use super::home::{BRIDGE, Home};
use super::{Peer, make_directory, write_file};
use crate::ground::Ground;

/// Whether sandboxes wait for pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spares {
    /// As it is shipped.
    Some,
    /// Every pod is made from nothing.
    None,
}

impl Spares {
    fn name(self) -> &'static str {
        match self {
            Self::Some => "berth",
            Self::None => "berth cold",
        }
    }
}

/// Starts one with the test images imported.
pub(crate) fn start(ground: &Ground, program: &Path, spares: Spares) -> Result<Peer> {
    if !program.is_file() {
        bail!("no {}: run cargo build --release -p berth", program.display());
    }
    let mut home = Home::new(ground, &spares.name().replace(' ', "-"))?;
    home.watch(&["process", "mount", "cgroup", "link", "rule", "file", "descriptor"]);
    let (config, socket) = (home.dir().join("config.toml"), home.dir().join("state/berth.sock"));
    write_file(&config, &settings(&home, spares))?;
    let program = program.display().to_string();
    let with = |words: &[&str]| -> Vec<String> {
        let config = config.display().to_string();
        [program.as_str(), "--config", &config].iter().chain(words).map(|word| (*word).to_owned()).collect()
    };
    home.start(with(&["serve"]), &socket).context("start berth")?;
    let logs = home.dir().join("logs");
    make_directory(&logs)?;
    Ok(Peer {
        name: spares.name().into(),
        versions: vec![run(std::process::Command::new(&program).arg("--version")).trim().into()],
        socket,
        handler: String::new(),
        cgroup_parent: String::new(),
        import: with(&["image", "import"]),
        logs,
        home: Some(home),
    })
}

/// As in `berth config default`, but for what would meet that of another.
fn settings(home: &Home, spares: Spares) -> String {
    let (dir, pods) = (home.dir().display(), home.pods_cgroup());
    let images = repository().join("hack/images/out");
    let images = images.display();
    let spare = if spares == Spares::None { "sandboxes.spare = 0" } else { "" };
    format!(
        "root = '{dir}/root'\n\
         state = '{dir}/state'\n\
         log.level = 'info'\n\
         cgroup.root = '{pods}'\n\
         {spare}\n\
         images.import = '{images}'\n\
         [registries.hosts.'{REGISTRY}']\n\
         plain_http = true\n\
         [network]\n\
         bridge = '{BRIDGE}'\n\
         nft_table = 'bench'\n\
         subnets = ['10.210.0.0/16']\n"
    )
}
