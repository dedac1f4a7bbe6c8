//! `berth image`: the images of a node, also of one that has no registry. Listing is CRI's; pull with its progress,
//! import, export and prune are calls of berth's own on the same socket. Paths are opened by the agent, which is on
//! this machine and root; they are made absolute here.

mod pull;

use crate::client;
use anyhow::{Context, Result};
use berth_admin_proto::v1::admin_client::AdminClient;
use berth_admin_proto::v1::import_images_request::Source;
use berth_admin_proto::v1::{ExportImagesRequest, ImportImagesRequest, NamedImage, PruneImagesRequest};
use berth_cri_proto::v1::image_service_client::ImageServiceClient;
use berth_cri_proto::v1::{Image, ListImagesRequest};
use clap::Subcommand;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf, absolute};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

/// Bytes of an archive in one message: well below what gRPC takes, well above what a message costs.
const CHUNK_BYTES: usize = 256 * 1024;

/// Chunks that wait for the agent before the reader of standard input waits, too.
const CHUNKS_IN_FLIGHT: usize = 4;

/// What to do with images.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Pull an image from its registry, and show how far it is
    Pull(pull::PullArgs),
    /// Import archives: OCI layouts or docker-archives, plain, gzip or zstd
    Import {
        /// Archives, or OCI-layout directories; - for standard input
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Write images into one OCI-layout archive
    Export {
        /// The archive, which must not exist yet
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
        /// Names or ids of images
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
    },
    /// List the images
    List,
    /// Remove the images that no container uses
    Prune,
}

/// Carries the command out on the agent that listens on `socket`.
pub(crate) async fn run(socket: &Path, command: Command) -> Result<()> {
    let channel = client::connect(socket).await?;
    match command {
        Command::Pull(args) => client::attended(socket, pull::run(channel, args)).await,
        Command::Import { files } => client::attended(socket, import_all(channel, files)).await,
        Command::Export { output, images } => {
            client::attended(socket, export(channel, &output, images)).await
        }
        Command::List => client::within(socket, client::LIMIT, list(channel)).await,
        Command::Prune => client::attended(socket, prune(channel)).await,
    }
}

async fn import_all(channel: Channel, files: Vec<PathBuf>) -> Result<()> {
    for file in files {
        import(channel.clone(), &file).await.with_context(|| format!("import {}", file.display()))?;
    }
    Ok(())
}

async fn import(channel: Channel, file: &Path) -> Result<()> {
    let (sender, receiver) = mpsc::channel(CHUNKS_IN_FLIGHT);
    if file == Path::new("-") {
        // Not the runtime's: it would wait for the end of the input even when the agent has refused the archive.
        std::thread::spawn(move || send_input(&sender));
    } else {
        let path = absolute(file)?.to_str().context("the path is not UTF-8")?.to_owned();
        sender.send(ImportImagesRequest { source: Some(Source::Path(path)) }).await?;
        // The agent waits for the end of the stream.
        drop(sender);
    }
    let reply = AdminClient::new(channel).import_images(ReceiverStream::new(receiver)).await?;
    print_names("imported", &reply.into_inner().images)
}

/// Runs on a thread of its own until the input ends or the agent hangs up. A read error cuts the archive short, which
/// the agent sees and refuses.
fn send_input(sender: &mpsc::Sender<ImportImagesRequest>) {
    let mut input = io::stdin().lock();
    loop {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        let read = (&mut input).take(CHUNK_BYTES as u64).read_to_end(&mut chunk);
        if read.is_err() || chunk.is_empty() {
            return;
        }
        let request = ImportImagesRequest { source: Some(Source::Chunk(chunk)) };
        if sender.blocking_send(request).is_err() {
            return;
        }
    }
}

async fn export(channel: Channel, output: &Path, references: Vec<String>) -> Result<()> {
    let path = absolute(output)?.to_str().context("the output's path is not UTF-8")?.to_owned();
    let request = ExportImagesRequest { references, path };
    let reply = AdminClient::new(channel).export_images(request).await.context("export images")?;
    let size = bytes_for_people(reply.into_inner().written_bytes);
    writeln!(io::stdout(), "{}: {size}", output.display())?;
    Ok(())
}

async fn prune(channel: Channel) -> Result<()> {
    let reply = AdminClient::new(channel).prune_images(PruneImagesRequest {}).await;
    let reply = reply.context("prune images")?.into_inner();
    print_names("removed", &reply.images)?;
    writeln!(io::stdout(), "freed {}", bytes_for_people(reply.freed_bytes))?;
    Ok(())
}

fn print_names(verb: &str, images: &[NamedImage]) -> Result<()> {
    for image in images {
        writeln!(io::stdout(), "{verb} {} {}", short_id(&image.id), image.names.join(" "))?;
    }
    Ok(())
}

async fn list(channel: Channel) -> Result<()> {
    let reply = ImageServiceClient::new(channel).list_images(ListImagesRequest { filter: None }).await;
    let mut images = reply.context("list images")?.into_inner().images;
    images.sort_by(|a, b| a.repo_tags.cmp(&b.repo_tags));
    write!(io::stdout(), "{}", table(&images))?;
    Ok(())
}

/// One line for each name of each image; an image without a tag goes by its first digest.
fn table(images: &[Image]) -> String {
    let mut rows = vec![("image".to_owned(), "id".to_owned(), "size".to_owned())];
    for image in images {
        let names =
            if image.repo_tags.is_empty() { image.repo_digests.get(..1) } else { Some(&image.repo_tags[..]) };
        for name in names.unwrap_or(&["-".to_owned()]) {
            rows.push((name.clone(), short_id(&image.id).to_owned(), bytes_for_people(image.size)));
        }
    }
    let width = rows.iter().map(|(name, ..)| name.len()).max().unwrap_or(0);
    rows.iter().map(|(name, id, size)| format!("{name:<width$}  {id:<12}  {size:>10}\n")).collect()
}

/// The first twelve digits, as every tool shows them.
fn short_id(id: &str) -> &str {
    let digits = id.strip_prefix("sha256:").unwrap_or(id);
    digits.get(..12).unwrap_or(digits)
}

/// Powers of 1024, one decimal.
fn bytes_for_people(bytes: u64) -> String {
    let tenths = |unit: u64| format!("{}.{}", bytes / unit, bytes % unit * 10 / unit);
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{} KiB", tenths(1 << 10)),
        1_048_576..1_073_741_824 => format!("{} MiB", tenths(1 << 20)),
        _ => format!("{} GiB", tenths(1 << 30)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_readable() {
        let check = |bytes, text: &str| assert_eq!(bytes_for_people(bytes), text);
        check(0, "0 B");
        check(1023, "1023 B");
        check(1536, "1.5 KiB");
        check(5 << 20, "5.0 MiB");
        check(u64::MAX, "17179869183.9 GiB");
    }

    #[test]
    fn every_name_of_an_image_has_a_line() {
        let image = |tags: &[&str], digests: &[&str]| Image {
            id: "sha256:0123456789abcdef".into(),
            repo_tags: tags.iter().map(|tag| (*tag).into()).collect(),
            repo_digests: digests.iter().map(|digest| (*digest).into()).collect(),
            size: 2048,
            ..Image::default()
        };
        let images =
            [image(&["a:1", "a:latest"], &["a@sha256:1"]), image(&[], &["b@sha256:2"]), image(&[], &[])];
        let expected = "\
image       id                  size
a:1         0123456789ab     2.0 KiB
a:latest    0123456789ab     2.0 KiB
b@sha256:2  0123456789ab     2.0 KiB
-           0123456789ab     2.0 KiB
";
        assert_eq!(table(&images), expected);
    }
}
