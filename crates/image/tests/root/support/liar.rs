//! A registry that says what a test tells it to say, and remembers what it was asked.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

use super::image::TestImage;
use berth_image::Digest;

/// What to do with a request for a path.
#[derive(Clone)]
pub(crate) enum Reply {
    Body(Vec<u8>),
    /// Claims the whole length, sends this many bytes and closes the connection. Honours ranges.
    Cut(Vec<u8>, usize),
    /// Claims the whole length, sends this many bytes and then nothing.
    Hang(Vec<u8>, usize),
    /// Accepts the request and says nothing.
    Silent,
    /// 401 with a challenge unless the request has the authorization, then the body.
    Guarded {
        challenge: String,
        authorization: String,
        body: Vec<u8>,
    },
}

pub(crate) struct Liar {
    pub(crate) host: String,
    replies: Arc<Mutex<HashMap<String, Reply>>>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Liar {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let (replies, requests) = (Arc::<Mutex<HashMap<_, _>>>::default(), Arc::<Mutex<Vec<_>>>::default());
        let liar = Self { host, replies: Arc::clone(&replies), requests: Arc::clone(&requests) };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (replies, requests) = (Arc::clone(&replies), Arc::clone(&requests));
                tokio::spawn(async move {
                    let _ = answer(stream, &replies, &requests).await;
                });
            }
        });
        liar
    }

    /// Serves an image truthfully.
    pub(crate) fn serve(&self, repository: &str, tag: &str, image: &TestImage) {
        for reference in [tag, image.digest().as_str()] {
            self.reply(
                &format!("/v2/{repository}/manifests/{reference}"),
                Reply::Body(image.manifest.clone()),
            );
        }
        for blob in image.layers.iter().chain([&image.config]) {
            self.reply(&blob_path(repository, blob), Reply::Body(blob.clone()));
        }
    }

    pub(crate) fn reply(&self, path: &str, reply: Reply) {
        self.replies.lock().unwrap().insert(path.to_owned(), reply);
    }

    /// The paths asked for, in order.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

pub(crate) fn blob_path(repository: &str, blob: &[u8]) -> String {
    format!("/v2/{repository}/blobs/{}", Digest::of(blob))
}

async fn answer(
    stream: TcpStream,
    replies: &Mutex<HashMap<String, Reply>>,
    requests: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? <= 2 {
            break;
        }
        head.push(line.trim().to_owned());
    }
    let Some(target) = head.first().and_then(|line| line.split(' ').nth(1)) else {
        return Ok(());
    };
    requests.lock().unwrap().push(target.to_owned());
    let path = target.split('?').next().unwrap_or_default();
    let header = |name: &str| head.iter().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let reply = replies.lock().unwrap().get(path).cloned();
    let from =
        header("range: bytes=").and_then(|range| range.trim_end_matches('-').parse().ok()).unwrap_or(0);
    let (status, extra, body, sent) = match reply {
        None => (
            "404 Not Found",
            String::new(),
            br#"{"errors":[{"message":"no such thing"}]}"#.to_vec(),
            usize::MAX,
        ),
        Some(Reply::Silent) => return std::future::pending().await,
        Some(Reply::Body(body)) => ("200 OK", String::new(), body, usize::MAX),
        Some(Reply::Cut(body, sent)) if from > 0 => {
            ("206 Partial Content", String::new(), body[from..].to_vec(), sent)
        }
        Some(Reply::Cut(body, sent) | Reply::Hang(body, sent)) => ("200 OK", String::new(), body, sent),
        Some(Reply::Guarded { authorization, body, .. })
            if header("authorization:") == Some(&authorization) =>
        {
            ("200 OK", String::new(), body, usize::MAX)
        }
        Some(Reply::Guarded { challenge, .. }) => {
            ("401 Unauthorized", format!("www-authenticate: {challenge}\r\n"), Vec::new(), usize::MAX)
        }
    };
    let head =
        format!("HTTP/1.1 {status}\r\nconnection: close\r\n{extra}content-length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&body[..sent.min(body.len())]).await?;
    stream.flush().await?;
    let hangs = matches!(replies.lock().unwrap().get(path), Some(Reply::Hang(..)));
    if hangs {
        std::future::pending::<()>().await;
    }
    stream.shutdown().await
}
