//! From files and flags to [`Settings`]. Each file is first read by itself, so that an error knows its file and line;
//! then the tables are laid over each other, and the result is judged as a whole. A complaint about a value names the
//! file and line (or the flag) that it came from.

use super::{Problem, Settings};
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{fs, io};
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

/// The settings file when no flag names one. It may be absent.
const DEFAULT_FILE: &str = "/etc/berth/config.toml";

/// What the command line says about the settings.
#[derive(Debug, Clone, Default)]
pub(crate) struct Flags {
    /// `--config`: must exist when given.
    pub(crate) config: Option<PathBuf>,
    /// `--root`
    pub(crate) root: Option<PathBuf>,
    /// `--state`
    pub(crate) state: Option<PathBuf>,
    /// `--socket`
    pub(crate) socket: Option<PathBuf>,
}

impl Flags {
    /// Whether the command line says anything about the settings.
    pub(crate) fn is_given(&self) -> bool {
        let Self { config, root, state, socket } = self;
        [config, root, state, socket].into_iter().any(Option::is_some)
    }
}

/// What [`load`] found.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// The settings, valid as a whole.
    pub(crate) settings: Settings,
    sources: Vec<Source>,
    flags: Flags,
}

impl Loaded {
    /// The files that were read, in the order in which they were laid over each other.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        self.sources.iter().map(|source| source.path.as_path())
    }

    /// Looks at the files that the settings name.
    ///
    /// # Errors
    /// What is wrong with them, one per line.
    pub(crate) fn check_files(&self) -> Result<(), Error> {
        let problems = self.settings.file_problems();
        if problems.is_empty() {
            return Ok(());
        }
        Err(Error::Invalid(describe(&problems, &self.flags, &self.sources)))
    }
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A file or the drop-in directory can't be read.
    #[error("read settings from {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Not TOML, an unknown key, or a value of the wrong type.
    #[error("read settings from {} line {line}: {message}", path.display())]
    Parse { path: PathBuf, line: usize, message: String },
    /// The files are fine one by one, and not together.
    #[error("merge the settings files")]
    Merge(#[source] toml::de::Error),
    /// Values that make no sense, one per line.
    #[error("validate settings: {0}")]
    Invalid(String),
}

/// One file, known to hold nothing but settings.
#[derive(Debug)]
struct Source {
    path: PathBuf,
    text: String,
    table: Table,
}

/// Reads, merges and validates.
pub(crate) fn load(flags: &Flags) -> Result<Loaded, Error> {
    let sources = files_to_read(flags)?.into_iter().map(Source::read).collect::<Result<Vec<_>, _>>()?;
    let mut merged = Table::new();
    for source in &sources {
        merge(&mut merged, source.table.clone());
    }
    let mut settings: Settings = merged.try_into().map_err(Error::Merge)?;
    flags.apply(&mut settings);
    let problems = settings.problems();
    if !problems.is_empty() {
        return Err(Error::Invalid(describe(&problems, flags, &sources)));
    }
    Ok(Loaded { settings, sources, flags: flags.clone() })
}

impl Flags {
    fn apply(&self, settings: &mut Settings) {
        let set = |target: &mut PathBuf, flag: &Option<PathBuf>| {
            if let Some(value) = flag {
                target.clone_from(value);
            }
        };
        set(&mut settings.root, &self.root);
        set(&mut settings.state, &self.state);
        if self.socket.is_some() {
            settings.cri.socket.clone_from(&self.socket);
        }
    }

    /// The flag that decided a key.
    fn deciding(&self, key: &str) -> Option<&'static str> {
        match key {
            "root" => self.root.as_ref().map(|_| "--root"),
            "state" => self.state.as_ref().map(|_| "--state"),
            "cri.socket" => self.socket.as_ref().map(|_| "--socket"),
            _ => None,
        }
    }
}

impl Source {
    fn read(path: PathBuf) -> Result<Self, Error> {
        let text = fs::read_to_string(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
        let parse = |error: toml::de::Error| Error::Parse {
            path: path.clone(),
            line: error.span().map_or(1, |span| line_at(&text, span.start)),
            message: error.message().replace('\n', ", "),
        };
        toml::from_str::<Settings>(&text).map_err(parse)?;
        let table = toml::from_str(&text).map_err(parse)?;
        Ok(Self { path, text, table })
    }

    /// The line on which this file sets a key.
    fn line_of(&self, key: &str) -> Option<usize> {
        let document = DeTable::parse(&self.text).ok()?;
        let mut table = document.get_ref();
        let mut parts = parts_of(key).into_iter().peekable();
        while let Some(part) = parts.next() {
            let (name, value): (&Spanned<_>, &Spanned<DeValue<'_>>) =
                table.iter().find(|(name, _)| name.get_ref().as_ref() == part)?;
            if parts.peek().is_none() {
                return Some(line_at(&self.text, name.span().start));
            }
            let DeValue::Table(inner) = value.get_ref() else {
                return None;
            };
            table = inner;
        }
        None
    }
}

/// The names of which a key is made; one in quotes may hold dots.
fn parts_of(key: &str) -> Vec<&str> {
    let mut is_quoted = false;
    let is_border = |letter: char| {
        is_quoted ^= letter == '"';
        letter == '.' && !is_quoted
    };
    key.split(is_border).map(|part| part.trim_matches('"')).collect()
}

/// The settings file, where there is one, and its drop-ins in the order of their names.
fn files_to_read(flags: &Flags) -> Result<Vec<PathBuf>, Error> {
    let main = flags.config.clone().unwrap_or_else(|| DEFAULT_FILE.into());
    let directory = main.with_extension("d");
    let mut drop_ins = match fs::read_dir(&directory) {
        Ok(entries) => entries.map(|entry| entry.map(|e| e.path())).collect::<Result<Vec<_>, _>>(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
    .map_err(|source| Error::Read { path: directory, source })?;
    drop_ins.retain(|path| path.extension() == Some(OsStr::new("toml")));
    drop_ins.sort();
    let wanted = flags.config.is_some() || main.exists();
    Ok(wanted.then_some(main).into_iter().chain(drop_ins).collect())
}

/// Lays `upper` over `lower`: tables key by key, everything else whole.
fn merge(lower: &mut Table, upper: Table) {
    for (key, value) in upper {
        match (lower.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => merge(below, above),
            (_, value) => {
                lower.insert(key, value);
            }
        }
    }
}

fn describe(problems: &[Problem], flags: &Flags, sources: &[Source]) -> String {
    let mut text = String::new();
    for Problem { key, fault } in problems {
        let separator = if text.is_empty() { "" } else { "\n" };
        let origin = origin(key, flags, sources);
        // Writing to a String can't fail.
        let _ = write!(text, "{separator}{origin}: {key}: {fault}");
    }
    text
}

/// Where the value of a key was decided.
fn origin(key: &str, flags: &Flags, sources: &[Source]) -> String {
    if let Some(flag) = flags.deciding(key) {
        return format!("flag {flag}");
    }
    let found = sources.iter().rev().find_map(|source| Some((&source.path, source.line_of(key)?)));
    found.map_or_else(|| "default".into(), |(path, line)| format!("{} line {line}", path.display()))
}

/// Lines count from one.
fn line_at(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files of a settings directory; the first is the main one.
    fn load_files(files: &[(&str, &str)]) -> (tempfile::TempDir, Result<Loaded, Error>) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("config.d")).unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let flags = Flags { config: Some(dir.path().join("config.toml")), ..Flags::default() };
        let loaded = load(&flags);
        (dir, loaded)
    }

    #[test]
    fn later_files_win_key_by_key() {
        let (_dir, loaded) = load_files(&[
            ("config.toml", "root = '/a'\n[log]\nlevel = 'debug'\nformat = 'json'\n"),
            ("config.d/20-b.toml", "log.level = 'error'\n"),
            ("config.d/10-a.toml", "log.level = 'warn'\nstate = '/b'\n"),
            ("config.d/30-c.conf", "not read"),
        ]);
        let loaded = loaded.unwrap();
        let files = loaded.files().count();
        let Settings { root, state, log, .. } = loaded.settings;
        assert_eq!((root.as_path(), state.as_path()), (Path::new("/a"), Path::new("/b")));
        assert_eq!((log.level.as_str(), log.format), ("error", super::super::LogFormat::Json));
        assert_eq!(files, 3);
    }

    #[test]
    fn a_mistake_is_found_with_file_and_line() {
        check(
            "\n[cri]\nsokcet = '/x'\n",
            "config.d/1.toml line 3: unknown field `sokcet`, expected `socket`",
        );
        check("[log]\nformat = 'xml'\n", "config.d/1.toml line 2: unknown variant `xml`");
        check("root = 1\n", "config.d/1.toml line 1: invalid type: integer `1`");
        check("root = \n", "config.d/1.toml line 1: ");
        check(
            "root = '/a'\n\n[cri]\n# text\nsocket = 'x'\n",
            "config.d/1.toml line 5: cri.socket: \"x\" must be",
        );
    }

    #[test]
    fn a_missing_file_is_found_with_file_and_line() {
        let text = "[registries.hosts.\"r.example:5\"]\nskip_verify = true\nca_file = '/no/ca'\n";
        let (_dir, loaded) = load_files(&[("config.toml", text)]);
        let found = loaded.unwrap().check_files().unwrap_err().to_string();
        let want = "config.toml line 3: registries.hosts.\"r.example:5\".ca_file: \"/no/ca\" can't be used";
        assert!(found.contains(want), "{found}");
    }

    fn check(drop_in: &str, message: &str) {
        let (_dir, loaded) =
            load_files(&[("config.toml", "cri.socket = '/y'"), ("config.d/1.toml", drop_in)]);
        let found = loaded.unwrap_err().to_string();
        assert!(found.contains(message), "{drop_in:?} gave {found:?}");
    }

    #[test]
    fn a_named_file_must_exist() {
        let error =
            load(&Flags { config: Some("/nowhere/berth.toml".into()), ..Flags::default() }).unwrap_err();
        assert_eq!(error.to_string(), "read settings from /nowhere/berth.toml");
    }

    #[test]
    fn flags_win_and_are_named() {
        let (dir, _) = load_files(&[("config.toml", "root = '/a'")]);
        let config = Some(dir.path().join("config.toml"));
        let flags = Flags { config: config.clone(), root: Some("/b".into()), ..Flags::default() };
        assert_eq!(load(&flags).unwrap().settings.root, Path::new("/b"));
        let flags = Flags { config, socket: Some("x".into()), ..Flags::default() };
        assert!(load(&flags).unwrap_err().to_string().contains("flag --socket: cri.socket: \"x\""));
    }
}
