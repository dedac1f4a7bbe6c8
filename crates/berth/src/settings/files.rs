//! The files that settings name: whether they are there, and what they should be. For `berth config check` alone, since
//! most may still come before they are needed, and whoever needs one then says so.

use super::{Problem, Settings};
use berth_image::HostConfig;
use berth_stream::StreamingConfig;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// What a file has to be.
#[derive(Debug, Clone, Copy)]
enum Wanted {
    Directory,
    Readable,
    Program,
}

impl Settings {
    /// Files that are missing or something else than they should be, in the order of the keys. Directories that have a
    /// default may be missing, as long as it is that.
    pub(crate) fn file_problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut expect = |key: &str, path: &Path, wanted: Wanted| {
            if let Err(fault) = look(path, wanted) {
                problems.push(Problem { key: key.into(), fault: format!("{path:?} {fault}") });
            }
        };
        let default = Self::default();
        let StreamingConfig { tls_cert_file, tls_key_file, .. } = &self.streaming;
        for (key, file) in [("tls_cert_file", tls_cert_file), ("tls_key_file", tls_key_file)] {
            file.iter().for_each(|file| expect(&format!("streaming.{key}"), file, Wanted::Readable));
        }
        for directory in &self.registries.hosts_directories {
            if !default.registries.hosts_directories.contains(directory) {
                expect("registries.hosts_directories", directory, Wanted::Directory);
            }
        }
        for (host, HostConfig { ca_file, client_cert, client_key, .. }) in &self.registries.hosts {
            for (key, file) in
                [("ca_file", ca_file), ("client_cert", client_cert), ("client_key", client_key)]
            {
                let key = format!("registries.hosts.{host:?}.{key}");
                file.iter().for_each(|file| expect(&key, file, Wanted::Readable));
            }
        }
        self.images.import.iter().for_each(|import| expect("images.import", import, Wanted::Directory));
        for directory in &self.devices.cdi_directories {
            if !default.devices.cdi_directories.contains(directory) {
                expect("devices.cdi_directories", directory, Wanted::Directory);
            }
        }
        for (name, handler) in &self.handlers {
            expect(&format!("handlers.{name}.path"), &handler.path, Wanted::Program);
        }
        problems
    }
}

fn look(path: &Path, wanted: Wanted) -> Result<(), String> {
    let metadata = fs::metadata(path).map_err(|error| format!("can't be used: {error}"))?;
    let is_program = metadata.is_file() && metadata.permissions().mode() & 0o111 != 0;
    match wanted {
        Wanted::Directory if !metadata.is_dir() => Err("is no directory".to_owned()),
        Wanted::Program if !is_program => Err("is no program: it must be an executable file".to_owned()),
        Wanted::Readable if !metadata.is_file() => Err("is no file".to_owned()),
        Wanted::Readable => File::open(path).map(drop).map_err(|error| format!("can't be read: {error}")),
        Wanted::Directory | Wanted::Program => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_is_named_by_its_key() {
        let check = |text: &str, key: &str, fault: &str| {
            let settings: Settings = toml::from_str(text).unwrap();
            let found = settings.file_problems();
            assert!(found.len() == 1 && found[0].key == key && found[0].fault.contains(fault), "{found:?}");
        };
        assert_eq!(Settings::default().file_problems(), []);
        check("handlers.runc.path = '/no/runc'", "handlers.runc.path", "\"/no/runc\" can't be used: No such");
        check("handlers.runc.path = '/etc/passwd'", "handlers.runc.path", "is no program");
        check(
            "[registries.hosts.\"r.example:5000\"]\nca_file = '/no/ca.pem'",
            "registries.hosts.\"r.example:5000\".ca_file",
            "can't be used",
        );
        check(
            "registries.hosts_directories = ['/no/certs.d']",
            "registries.hosts_directories",
            "/no/certs.d",
        );
        check("devices.cdi_directories = ['/etc/passwd']", "devices.cdi_directories", "is no directory");
        check("images.import = '/no/images'", "images.import", "/no/images");
        check(
            "streaming = { tls_cert_file = '/etc/passwd', tls_key_file = '/etc' }",
            "streaming.tls_key_file",
            "is no file",
        );
    }
}
