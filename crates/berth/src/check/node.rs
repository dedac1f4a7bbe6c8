//! The rest of the pre-flight: security modules, room on the disks, and who holds the agent's socket.

use super::Finding;
use super::kernel::nearest_directory;
use crate::client;
use crate::listener::{Occupant, occupant};
use crate::settings::Settings;
use berth_cri_proto::v1::VersionResponse;
use berth_stream::StreamingConfig;
use rustix::fs::statvfs;
use std::fs;
use std::path::Path;

const MIB: u64 = 1 << 20;

/// With less, not even the database can be written.
const LEAST_BYTES: u64 = 2 * MIB;

pub(super) async fn findings(settings: &Settings) -> Vec<Finding> {
    vec![
        security_modules(),
        // An image of a few hundred megabytes must fit; the state directory only holds small files.
        room("root", &settings.root, 2048 * MIB),
        room("state", &settings.state, 32 * MIB),
        socket(&settings.socket()).await,
        streaming(&settings.streaming),
    ]
}

fn security_modules() -> Finding {
    match fs::read_to_string("/sys/kernel/security/lsm") {
        Ok(names) => Finding::ok("lsm", names.trim()),
        Err(_) => Finding::warn(
            "lsm",
            "not known",
            "mount securityfs on /sys/kernel/security, if the kernel has it",
        ),
    }
}

fn room(what: &'static str, path: &Path, wanted_bytes: u64) -> Finding {
    let place = nearest_directory(path);
    match statvfs(&place) {
        Ok(found) => judge_room(what, &place, found.f_bavail * found.f_frsize, wanted_bytes),
        Err(error) => {
            Finding::fail(what, format!("{}: {error}", place.display()), "choose another directory")
        }
    }
}

fn judge_room(what: &'static str, place: &Path, free_bytes: u64, wanted_bytes: u64) -> Finding {
    let detail = format!("{} MiB free in {}", free_bytes / MIB, place.display());
    let advice = || format!("make room: {} MiB are good to begin with", wanted_bytes / MIB);
    if free_bytes < LEAST_BYTES {
        Finding::fail(what, detail, advice())
    } else if free_bytes < wanted_bytes {
        Finding::warn(what, detail, advice())
    } else {
        Finding::ok(what, detail)
    }
}

/// Whoever accepts connections is asked something: the kernel accepts them for an agent that hangs, too.
async fn socket(path: &Path) -> Finding {
    let path_text = path.display();
    match occupant(path) {
        Ok(Occupant::Nobody) => Finding::ok("socket", format!("{path_text} is free")),
        Ok(Occupant::Stale) => Finding::ok("socket", format!("{path_text} is stale and will be replaced")),
        Ok(Occupant::Live) => match client::version(path).await {
            Ok(VersionResponse { runtime_name, runtime_version, .. }) => {
                Finding::ok("socket", format!("{runtime_name} {runtime_version} answers on {path_text}"))
            }
            Err(error) => Finding::fail(
                "socket",
                format!("{error:#}"),
                "kill -CONT the process if it is stopped, or restart the agent: the pods stay",
            ),
        },
        Ok(Occupant::File) => {
            Finding::fail("socket", format!("{path_text} is not a socket"), "remove that file")
        }
        Err(error) => Finding::fail("socket", format!("{path_text}: {error}"), "run berth as root"),
    }
}

fn streaming(config: &StreamingConfig) -> Finding {
    let address = config.address;
    if config.is_open_to_others() {
        Finding::warn(
            "streaming",
            format!("{address} is beyond loopback, and there is no TLS"),
            "set streaming.tls_cert_file and tls_key_file, or streaming.address to 127.0.0.1",
        )
    } else {
        Finding::ok("streaming", format!("on {address}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Level;

    #[test]
    fn little_room_warns_and_none_fails() {
        let check =
            |free, level| assert_eq!(judge_room("root", Path::new("/"), free, 1024 * MIB).level, level);
        check(1024 * MIB, Level::Ok);
        check(1023 * MIB, Level::Warn);
        check(2 * MIB, Level::Warn);
        check(2 * MIB - 1, Level::Fail);
    }
}
