//! TLS.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_stream::{Error, Server, StreamingConfig};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::support::{split, start_with, within};

/// A self-signed certificate for localhost, and its key, which guards nothing.
fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/streaming/tls").join(name)
}

fn config(certificate: &str, key: &str) -> StreamingConfig {
    StreamingConfig {
        tls_cert_file: Some(file(certificate)),
        tls_key_file: Some(file(key)),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_session_goes_over_tls() {
    let server = start_with(config("cert.pem", "key.pem")).await;
    let url = server.exec(&["exit", "0"]);
    assert!(url.starts_with("https://127.0.0.1:"), "{url}");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(file("cert.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (address, path) = split(&url);
    let socket = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut socket = within(TlsConnector::from(Arc::new(client)).connect(name, socket)).await.unwrap();
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let goodbye = [0x88, 2, 3, 232];
    while !answer.ends_with(&goodbye) {
        assert!(within(socket.read_buf(&mut answer)).await.unwrap() > 0, "{answer:?}");
    }
    assert!(String::from_utf8_lossy(&answer).contains(r#"{"status":"Success"}"#));
}

#[tokio::test]
async fn files_that_are_not_what_they_should_be_are_named() {
    for (certificate, key, named) in [
        ("missing.pem", "key.pem", "missing.pem"),
        ("cert.pem", "missing.pem", "missing.pem"),
        ("key.pem", "key.pem", "key.pem"),
        ("cert.pem", "cert.pem", "cert.pem"),
    ] {
        let error = Server::bind(&config(certificate, key)).await.unwrap_err();
        let Error::Tls { path, .. } = error else { panic!("{error:?}") };
        assert!(path.ends_with(named), "{path:?}");
    }
}
