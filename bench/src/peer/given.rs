//! A runtime that somebody else has started: any that answers CRI v1 on a Unix socket, CRI-O for instance.
//!
//! It must have the test images (`localhost/berth/busybox:latest`), and its pods go where it puts them. Its processes
//! are found from the one that listens, and from those of its pods.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result};
use berth_cri_proto::v1::VersionRequest;

use super::{Peer, make_directory};
use crate::ground::Ground;

/// `NAME=SOCKET`, as on the command line.
#[derive(Debug, Clone)]
pub(crate) struct Given {
    name: String,
    socket: PathBuf,
}

impl FromStr for Given {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, socket)) if !name.is_empty() && socket.starts_with('/') => {
                Ok(Self { name: name.into(), socket: socket.into() })
            }
            Some(_) | None => Err("is not NAME=/PATH/OF/SOCKET".into()),
        }
    }
}

/// Asks it who it is.
pub(crate) fn connect(ground: &Ground, given: &Given) -> Result<Peer> {
    let logs = ground.dir().join(format!("{}-logs", given.name));
    let mut peer = Peer {
        name: given.name.clone(),
        versions: Vec::new(),
        socket: given.socket.clone(),
        handler: String::new(),
        cgroup_parent: String::new(),
        import: Vec::new(),
        logs,
        home: None,
    };
    let version = peer.cri()?.version(VersionRequest::default());
    let version = version.with_context(|| format!("ask {} for its version", given.name))?;
    peer.versions.push(format!("{} {}", version.runtime_name, version.runtime_version));
    make_directory(&peer.logs)?;
    Ok(peer)
}
