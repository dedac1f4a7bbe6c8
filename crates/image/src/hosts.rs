//! A registry's `hosts.toml`, as containerd has it: where else the registry's images are, and how to talk to each
//! place.
//!
//! ```text
//! DIRECTORY/HOST_PORT_/hosts.toml      the places of one registry; else HOST:PORT, else HOST, else _default
//!
//! server = "https://registry.example"  the registry itself, tried last; its own address when not given
//! [host."https://mirror.example"]      tried before it, in the order of the file
//! capabilities = ["pull", "resolve"]
//! ca = "ca.pem"                        relative to the file's directory
//! ```
//! A directory without the file may hold certificates as Docker has them: `*.crt` to trust, and a `*.cert` with its
//! `*.key` to be trusted with. What a file says is read anew for each pull, so a change needs no restart. A key that is
//! not known is an error, never ignored. [`parse_hosts`] is pure.
//!
//! Source: containerd, docs/hosts.md.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use toml::Spanned;

use crate::bounded;
use crate::{
    Error, Result,
    endpoint::{Address, Capability, ClientFiles, Endpoint, Tls, is_header, is_same_host, scheme},
};

/// The places of a registry, by the first directory that says something about it; none if nobody does. Blocks.
pub(crate) fn find_hosts(directories: &[PathBuf], host: &str) -> Result<Option<Vec<Endpoint>>> {
    let candidates = directories.iter().flat_map(|root| names_of(host).map(|name| root.join(name)));
    for directory in candidates {
        let file = directory.join("hosts.toml");
        match read_text(&file) {
            Ok(text) => return parse_hosts(&text, &file, host).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound && directory.is_dir() => {
                return Ok(Some(vec![Endpoint::origin(host, docker_files(&directory)?)]));
            }
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(Error::io("read", &file)(error)),
        }
    }
    Ok(None)
}

/// Whether a file of this text says where the images of a registry are: [`Ok`], or what is wrong with it.
pub fn check_hosts(text: &str) -> Result<()> {
    parse_hosts(text, Path::new("hosts.toml"), "registry.example").map(|_| ())
}

/// The places that a file names for a registry, in the order of trying. Pure.
pub(crate) fn parse_hosts(text: &str, file: &Path, host: &str) -> Result<Vec<Endpoint>> {
    let reader = Reader { text, file, host };
    let HostsFile {
        server,
        host: others,
        capabilities,
        ca,
        client,
        skip_verify,
        header,
        override_path,
        dial_timeout,
    } = toml::from_str(text).map_err(|error| reader.refuse_toml(&error))?;
    let own = Place { capabilities, ca, client, skip_verify, header, override_path, dial_timeout };
    let mut others: Vec<_> = others.into_iter().collect();
    // The map is sorted by name; what counts is the order of the file.
    others.sort_by_key(|(name, _)| name.span().start);
    let mut endpoints = Vec::new();
    for (name, place) in others {
        endpoints.push(reader.endpoint(&name, place)?);
    }
    endpoints.push(match server {
        Some(server) => reader.endpoint(&server, own)?,
        None => {
            let origin = Endpoint::origin(host, Tls::default());
            reader.furnish(origin, Spanned::new(0..0, String::new()), own)?
        }
    });
    Ok(endpoints)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HostsFile {
    server: Option<Spanned<String>>,
    #[serde(default)]
    host: BTreeMap<Spanned<String>, Place>,
    // Those of a place, for the server. Unknown keys would pass through a flattened one.
    capabilities: Option<Vec<Capability>>,
    ca: Option<OneOrMany<PathBuf>>,
    client: Option<Spanned<Client>>,
    #[serde(default)]
    skip_verify: bool,
    #[serde(default)]
    header: BTreeMap<Spanned<String>, OneOrMany<String>>,
    #[serde(default)]
    override_path: bool,
    dial_timeout: Option<Spanned<String>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Place {
    capabilities: Option<Vec<Capability>>,
    ca: Option<OneOrMany<PathBuf>>,
    client: Option<Spanned<Client>>,
    #[serde(default)]
    skip_verify: bool,
    #[serde(default)]
    header: BTreeMap<Spanned<String>, OneOrMany<String>>,
    #[serde(default)]
    override_path: bool,
    dial_timeout: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a string or a list of them")]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

/// A file, or files, or pairs of a certificate and its key.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a file, or a list of pairs of files")]
enum Client {
    One(PathBuf),
    Many(Vec<OneOrMany<PathBuf>>),
}

/// What every complaint needs.
struct Reader<'a> {
    text: &'a str,
    file: &'a Path,
    host: &'a str,
}

impl<T> OneOrMany<T> {
    fn into_vec(self) -> Vec<T> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

impl Reader<'_> {
    fn endpoint(&self, name: &Spanned<String>, place: Place) -> Result<Endpoint> {
        let address = name.get_ref();
        let Some(Address { plain_http, host, path }) = Address::parse(address) else {
            return Err(
                self.refuse(name, format!("{address:?} is neither host[:port] nor an http or https URL"))
            );
        };
        let plain_http = plain_http.unwrap_or(false);
        let is_origin = is_same_host(host, self.host) && path.is_empty();
        let root = if path.is_empty() { String::new() } else { format!("/{path}") };
        let version = if place.override_path { "" } else { "/v2" };
        let endpoint = Endpoint {
            host: if is_origin { self.host.to_owned() } else { host.to_owned() },
            api: format!("{}{host}{root}{version}", scheme(plain_http)),
            upstream: (!is_origin).then(|| self.host.to_owned()),
            is_origin,
            tls: Tls { plain_http, ..Tls::default() },
            ..Endpoint::origin(self.host, Tls::default())
        };
        self.furnish(endpoint, name.clone(), place)
    }

    /// Adds what stands beside the address.
    fn furnish(&self, mut endpoint: Endpoint, name: Spanned<String>, place: Place) -> Result<Endpoint> {
        if let Some(capabilities) = place.capabilities {
            if capabilities.is_empty() {
                return Err(self.refuse(&name, "its capabilities are none".into()));
            }
            endpoint.capabilities = capabilities;
        }
        endpoint.tls.skip_verify = place.skip_verify;
        let relative = |path: PathBuf| self.file.parent().unwrap_or(Path::new("")).join(path);
        endpoint.tls.ca_files =
            place.ca.map(OneOrMany::into_vec).unwrap_or_default().into_iter().map(relative).collect();
        if let Some(client) = place.client {
            let span = client.span();
            let pairs = match client.into_inner() {
                Client::One(file) => vec![vec![file]],
                Client::Many(pairs) => pairs.into_iter().map(OneOrMany::into_vec).collect(),
            };
            let files: Vec<_> = pairs
                .into_iter()
                .map(|pair| {
                    let mut files = pair.into_iter();
                    (files.next(), files.next(), files.next())
                })
                .collect();
            let Ok([(Some(certificate), key, None)]) = <[_; 1]>::try_from(files) else {
                let rule =
                    "client must be one file, or one pair of certificate and key: [[\"CERT\", \"KEY\"]]";
                return Err(self.refuse(&Spanned::new(span, ()), rule.into()));
            };
            let key = key.filter(|key| !key.as_os_str().is_empty()).map(relative);
            endpoint.tls.client = Some(ClientFiles { certificate: relative(certificate), key });
        }
        for (header, values) in place.header {
            for value in values.into_vec() {
                if !is_header(header.get_ref(), &value) {
                    return Err(self.refuse(
                        &header,
                        format!("{:?} can't be a header with such a value", header.get_ref()),
                    ));
                }
                endpoint.headers.push((header.get_ref().clone(), value));
            }
        }
        if let Some(timeout) = place.dial_timeout {
            let parsed = duration_from(timeout.get_ref()).filter(|timeout| !timeout.is_zero());
            endpoint.connect_timeout = Some(parsed.ok_or_else(|| {
                self.refuse(
                    &timeout,
                    format!("dial_timeout {:?} is no duration such as \"5s\"", timeout.get_ref()),
                )
            })?);
        }
        Ok(endpoint)
    }

    fn refuse<T>(&self, at: &Spanned<T>, reason: String) -> Error {
        self.refuse_at(at.span().start, reason)
    }

    /// The parser's own message does not always say which key it is about; the line does.
    fn refuse_toml(&self, error: &toml::de::Error) -> Error {
        let start = error.span().map_or(0, |span| span.start);
        let line = self.text.get(..start).unwrap_or_default().rsplit('\n').next().unwrap_or_default().len();
        let begin = start.saturating_sub(line);
        let key =
            self.text.get(begin..).unwrap_or_default().split(['=', '\n']).next().unwrap_or_default().trim();
        self.refuse_at(start, format!("{key}: {}", error.message().replace('\n', ", ")))
    }

    fn refuse_at(&self, position: usize, reason: String) -> Error {
        let line = self.text.as_bytes().iter().take(position).filter(|byte| **byte == b'\n').count() + 1;
        Error::Hosts { file: self.file.to_owned(), line, reason }
    }
}

/// The directories that may be meant for a host, the most special one first.
fn names_of(host: &str) -> impl Iterator<Item = String> {
    let port = host.rsplit_once(':').filter(|(_, port)| !port.is_empty() && !port.ends_with(']'));
    let with_port = port.map(|(name, port)| format!("{name}_{port}_"));
    with_port.into_iter().chain([host.to_owned(), "_default".to_owned()])
}

/// `1m30s`, `500ms`: numbers with units, as Go writes them.
fn duration_from(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let unit = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, next) = after.split_at(unit);
        let seconds = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total =
            total.checked_add(Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?)?;
        rest = next;
    }
    (!text.is_empty()).then_some(total)
}

fn docker_files(directory: &Path) -> Result<Tls> {
    let failed = || Error::io("read", directory);
    let mut tls = Tls::default();
    let entries = fs::read_dir(directory).map_err(failed())?;
    let mut paths =
        entries.map(|entry| entry.map(|e| e.path())).collect::<io::Result<Vec<_>>>().map_err(failed())?;
    paths.sort();
    for path in paths {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => tls.ca_files.push(path),
            Some("cert") => {
                tls.client = Some(ClientFiles { key: Some(path.with_extension("key")), certificate: path });
            }
            _ => {}
        }
    }
    Ok(tls)
}

fn read_text(file: &Path) -> io::Result<String> {
    String::from_utf8(bounded::read(file)?).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn is_absent(error: &io::Error) -> bool {
    [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&error.kind())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, host: &str) -> Result<Vec<Endpoint>> {
        parse_hosts(text, Path::new("/c/hosts.toml"), host)
    }

    fn apis(text: &str, host: &str) -> Vec<String> {
        parse(text, host).unwrap().into_iter().map(|endpoint| endpoint.api).collect()
    }

    #[test]
    fn places_are_tried_in_the_order_of_the_file_and_the_server_last() {
        let text = "server = 'https://z.example'\n[host.'http://b:5000']\n[host.'https://a.example/cache']\n\
                    [host.'https://c.example/api/x']\noverride_path = true\n";
        let expected = [
            "http://b:5000/v2",
            "https://a.example/cache/v2",
            "https://c.example/api/x",
            "https://z.example/v2",
        ];
        assert_eq!(apis(text, "r.example"), expected);
        assert_eq!(apis("", "docker.io"), ["https://registry-1.docker.io/v2"]);
        assert_eq!(apis("[host.m]", "r:5000"), ["https://m/v2", "https://r:5000/v2"]);
    }

    #[test]
    fn only_the_registry_itself_is_the_origin() {
        let check = |server: &str, host: &str, expected: (bool, &str)| {
            let endpoint = parse(&format!("server = {server:?}"), host).unwrap().remove(0);
            assert_eq!((endpoint.is_origin, endpoint.host.as_str()), expected, "{server} {host}");
            assert_eq!(endpoint.upstream.is_none(), expected.0);
        };
        check("https://registry-1.docker.io", "docker.io", (true, "docker.io"));
        check("http://r.example", "r.example", (true, "r.example"));
        check("https://other.example", "r.example", (false, "other.example"));
        check("https://r.example/elsewhere", "r.example", (false, "r.example"));
    }

    #[test]
    fn every_key_is_understood() {
        let text = "
            capabilities = ['resolve']
            [host.'https://m']
            capabilities = ['pull', 'push']
            ca = ['ca.pem', '/etc/other.pem']
            client = [['c.pem', 'k.pem']]
            skip_verify = true
            dial_timeout = '1m1.5s'
            [host.'https://m'.header]
            x-one = 'a'
            x-two = ['b', 'c']";
        let endpoints = parse(text, "r.example").unwrap();
        let [mirror, origin] = endpoints.as_slice() else { panic!("{endpoints:?}") };
        assert_eq!(mirror.capabilities, [Capability::Pull, Capability::Push]);
        let client = ClientFiles { certificate: "/c/c.pem".into(), key: Some("/c/k.pem".into()) };
        let ca_files = vec!["/c/ca.pem".into(), "/etc/other.pem".into()];
        let tls = Tls { skip_verify: true, ca_files, client: Some(client), plain_http: false };
        assert_eq!(mirror.tls, tls);
        assert_eq!(mirror.connect_timeout, Some(Duration::from_millis(61_500)));
        let headers = [("x-one", "a"), ("x-two", "b"), ("x-two", "c")];
        assert_eq!(mirror.headers, headers.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert!(!format!("{mirror:?}").contains("x-one"), "headers can be secrets");
        assert_eq!(origin.capabilities, [Capability::Resolve]);
        let client = |text: &str| parse(text, "r").unwrap().remove(0).tls.client;
        let one = Some(ClientFiles { certificate: "/c/both.pem".into(), key: None });
        assert_eq!(client("client = 'both.pem'"), one);
        assert_eq!(client("client = ['both.pem']"), one);
    }

    #[test]
    fn complaints_name_the_file_the_line_and_the_key() {
        let check = |text: &str, line: usize, expected: &str| {
            let error = parse(text, "r.example").unwrap_err().to_string();
            let wanted = format!("read registry hosts from /c/hosts.toml line {line}: ");
            assert!(error.starts_with(&wanted) && error.contains(expected), "{text:?}: {error}");
        };
        check("\nservers = 'x'", 2, "servers");
        check("server = 1", 1, "server: ");
        check("server = 'ftp://x'", 1, "ftp://x");
        check("[host.'u:p@x']", 1, "u:p@x");
        check("[host.m]\nskip_verify = 'no'", 2, "skip_verify: ");
        check("[host.m]\n\ncapabilities = ['pul']", 3, "pul");
        check("[host.m]\ncapabilities = []", 1, "capabilities");
        check("[host.m]\nca = 1", 2, "ca: expected a string or a list");
        check("[host.m]\nclient = ['a', 'b']", 2, "client");
        check("[host.m]\nclient = [['a', 'b', 'c']]", 2, "client");
        check("[host.m]\nclient = []", 2, "client");
        check("[host.m.header]\n'a b' = 'x'", 2, "a b");
        check("[host.m.header]\na = \"x\\ny\"", 2, "\"a\"");
        check("dial_timeout = '5'", 1, "dial_timeout");
        check("dial_timeout = '0s'", 1, "dial_timeout");
        check("[host.m]\n[host.m]", 2, "host");
        check("server = ", 1, "server");
    }

    #[test]
    fn a_port_is_written_with_underscores_or_as_it_is() {
        let check = |host: &str, expected: &[&str]| assert_eq!(names_of(host).collect::<Vec<_>>(), expected);
        check("docker.io", &["docker.io", "_default"]);
        check("r:5000", &["r_5000_", "r:5000", "_default"]);
        check("[::1]:5000", &["[::1]_5000_", "[::1]:5000", "_default"]);
        check("[::1]", &["[::1]", "_default"]);
    }

    #[test]
    fn directories_are_searched_in_their_order() {
        let dir = tempfile::tempdir().unwrap();
        let roots = [dir.path().join("a"), dir.path().join("missing"), dir.path().join("b")];
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let first = |host: &str| {
            find_hosts(&roots, host).unwrap().map(|endpoints| endpoints[0].api.clone()).unwrap_or_default()
        };
        write("b/r.example/hosts.toml", "[host.b1]");
        assert_eq!(first("r.example"), "https://b1/v2");
        assert_eq!(first("other.example"), "");
        write("b/_default/hosts.toml", "[host.any]");
        assert_eq!(first("other.example"), "https://any/v2");
        write("a/r.example_5000_/hosts.toml", "[host.a1]");
        assert_eq!(first("r.example:5000"), "https://a1/v2");
        write("a/r.example/hosts.toml", "[host.a2]");
        assert_eq!(first("r.example"), "https://a2/v2");
        write("a/docker.example/ca.crt", "");
        write("a/docker.example/client.cert", "");
        let endpoints = find_hosts(&roots, "docker.example").unwrap().unwrap();
        let directory = dir.path().join("a/docker.example");
        assert_eq!(endpoints[0].tls.ca_files, [directory.join("ca.crt")]);
        assert_eq!(endpoints[0].tls.client.as_ref().unwrap().key, Some(directory.join("client.key")));
        write("a/broken/hosts.toml", "x");
        assert!(matches!(find_hosts(&roots, "broken"), Err(Error::Hosts { line: 1, .. })));
    }
}
