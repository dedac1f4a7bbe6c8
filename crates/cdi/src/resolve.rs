//! From names to edits.
//!
//! A later directory wins over an earlier one. Two files of one directory that describe the same device are a conflict,
//! as there is no telling which is meant. What a file says of all its devices comes once, before the first of them.

use std::path::{Path, PathBuf};

use crate::Edits;
use crate::directory::{list, read};
use crate::error::{Error, FileError, Result};
use crate::name::DeviceName;
use crate::spec::{Part, Spec, parse};

/// An answer.
#[derive(Debug)]
pub struct Resolved {
    /// What all the devices add.
    pub edits: Edits,
    /// Files and directories that were left out; someone should mend them.
    pub broken: Vec<FileError>,
}

/// A specification and where it lies.
struct Known {
    /// The place of its directory in the list.
    rank: usize,
    path: PathBuf,
    spec: Spec,
}

/// Finds all of `names` in the files of `directories`.
///
/// # Errors
/// The first device that is not described, is described twice, or needs what nobody does here.
pub fn resolve(directories: &[PathBuf], names: &[DeviceName]) -> Result<Resolved> {
    let (known, broken) = read_all(directories);
    let (mut edits, mut used): (Edits, Vec<&Path>) = Default::default();
    for name in names {
        let (file, device) = find(&known, name, directories, &broken)?;
        if !used.contains(&file.path.as_path()) {
            used.push(&file.path);
            edits.append(supported(&file.spec.common, name, &file.path)?);
        }
        edits.append(supported(device, name, &file.path)?);
    }
    Ok(Resolved { edits, broken })
}

fn read_all(directories: &[PathBuf]) -> (Vec<Known>, Vec<FileError>) {
    let (mut known, mut broken) = (Vec::new(), Vec::new());
    for (rank, directory) in directories.iter().enumerate() {
        let files = list(directory).unwrap_or_else(|error| {
            broken.push(error);
            Vec::new()
        });
        for (path, format) in files {
            let invalid = |problem| FileError::Invalid { path: path.clone(), problem };
            match read(&path).and_then(|text| parse(&text, format).map_err(invalid)) {
                Ok(spec) => known.push(Known { rank, path, spec }),
                Err(error) => broken.push(error),
            }
        }
    }
    (known, broken)
}

fn find<'a>(
    known: &'a [Known],
    name: &DeviceName,
    directories: &[PathBuf],
    broken: &[FileError],
) -> Result<(&'a Known, &'a Part)> {
    let device_in = |file: &'a Known| {
        let mut devices = file.spec.devices.iter().filter(|_| file.spec.kind == name.kind);
        Some((file, &devices.find(|(device, _)| *device == name.device)?.1))
    };
    let mut found: Vec<_> = known.iter().filter_map(device_in).collect();
    // Files of the last directory that has it.
    let rank = found.iter().map(|(file, _)| file.rank).max();
    found.retain(|(file, _)| Some(file.rank) == rank);
    match found[..] {
        [one] => Ok(one),
        [] => Err(unknown(name, directories, broken)),
        [(one, _), (other, _), ..] => {
            Err(Error::Conflict { name: name.to_string(), one: one.path.clone(), other: other.path.clone() })
        }
    }
}

fn supported<'a>(part: &'a Part, name: &DeviceName, file: &Path) -> Result<&'a Edits> {
    match &part.unsupported {
        None => Ok(&part.edits),
        Some(feature) => Err(Error::Unsupported {
            name: name.to_string(),
            file: file.to_owned(),
            feature: feature.clone(),
        }),
    }
}

/// One broken file is told of: it may be the one that has the device.
fn unknown(name: &DeviceName, directories: &[PathBuf], broken: &[FileError]) -> Error {
    let directories: Vec<_> = directories.iter().map(|directory| directory.display().to_string()).collect();
    let broken = match broken {
        [] => String::new(),
        [only] => format!(" (left out: {only})"),
        [first, more @ ..] => format!(" (left out: {first}; and {} more)", more.len()),
    };
    Error::Unknown { name: name.to_string(), searched: directories.join(", "), broken }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn spec(kind: &str, common: &str, devices: &[(&str, &str)]) -> String {
        let edits = |env: &str| format!(r#""containerEdits": {{"env": ["{env}=1"]}}"#);
        let devices: Vec<_> =
            devices.iter().map(|(name, env)| format!(r#"{{"name": "{name}", {}}}"#, edits(env))).collect();
        format!(
            r#"{{"cdiVersion": "0.5.0", "kind": "{kind}", {}, "devices": [{}]}}"#,
            edits(common),
            devices.join(",")
        )
    }

    struct Place {
        _root: tempfile::TempDir,
        directories: Vec<PathBuf>,
    }

    impl Place {
        fn new(files: &[(usize, &str, String)]) -> Self {
            let root = tempfile::tempdir().unwrap();
            let directories: Vec<_> = ["etc", "run"].map(|name| root.path().join(name)).into();
            directories.iter().for_each(|directory| fs::create_dir(directory).unwrap());
            for (directory, name, text) in files {
                fs::write(directories[*directory].join(name), text).unwrap();
            }
            Self { _root: root, directories }
        }

        fn resolve(&self, names: &[&str]) -> Result<Resolved> {
            resolve(&self.directories, &names.iter().map(|name| name.parse().unwrap()).collect::<Vec<_>>())
        }

        fn env(&self, names: &[&str]) -> String {
            self.resolve(names).unwrap().edits.env.join(" ")
        }

        fn error(&self, name: &str) -> String {
            self.resolve(&[name]).unwrap_err().to_string()
        }
    }

    #[test]
    fn what_a_file_says_of_all_comes_once_and_first() {
        let place = Place::new(&[
            (0, "a.json", spec("v/a", "ALL", &[("0", "ZERO"), ("1", "ONE")])),
            (0, "b.yaml", spec("v/b", "OTHERS", &[("0", "B")])),
            (0, "c.txt", "no specification".into()),
        ]);
        assert_eq!(place.env(&["v/a=1", "v/b=0", "v/a=0"]), "ALL=1 ONE=1 OTHERS=1 B=1 ZERO=1");
        assert_eq!(place.env(&[]), "");
    }

    #[test]
    fn a_later_directory_wins_and_one_directory_must_be_of_one_mind() {
        let place = Place::new(&[
            (0, "a.json", spec("v/a", "OLD", &[("0", "X"), ("1", "ONE")])),
            (1, "a.json", spec("v/a", "NEW", &[("0", "Y")])),
            (1, "b.json", spec("v/c", "B", &[("0", "B")])),
            (1, "c.json", spec("v/c", "C", &[("0", "C")])),
        ]);
        assert_eq!(place.env(&["v/a=0"]), "NEW=1 Y=1");
        assert_eq!(place.env(&["v/a=1"]), "OLD=1 ONE=1");
        let error = place.error("v/c=0");
        assert!(error.starts_with("CDI device v/c=0: both ") && error.contains("c.json"), "{error}");
    }

    #[test]
    fn a_device_that_nobody_describes_is_named_with_what_may_be_the_reason() {
        let place = Place::new(&[(0, "good.json", spec("v/a", "ALL", &[("0", "ZERO")]))]);
        let [etc, _] = &place.directories[..] else { panic!() };
        let error = place.error("v/a=7");
        assert!(
            error.starts_with("CDI device v/a=7: no specification in ") && error.ends_with("describes it"),
            "{error}"
        );

        symlink("loop.json", etc.join("loop.json")).unwrap();
        let error = place.error("v/a=7");
        assert!(error.contains("left out: read ") && error.contains("loop.json"), "{error}");
        fs::create_dir(etc.join("directory.yaml")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            etc.join("fifo.json"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        fs::write(etc.join("large.json"), vec![b' '; 5 << 20]).unwrap();
        fs::write(etc.join("binary.yaml"), [0xff, 0xfe, 0]).unwrap();
        fs::write(etc.join("torn.json"), "{\"cdiVersion\"").unwrap();
        assert!(place.error("v/a=7").contains("binary.yaml") && place.error("v/a=7").contains("and 5 more"));
        // And the others are as good as before.
        assert_eq!(place.env(&["v/a=0"]), "ALL=1 ZERO=1");
    }
}
