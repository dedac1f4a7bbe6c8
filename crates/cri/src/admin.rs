//! The service `berth.v1.Admin`: what `berth image` needs and CRI lacks, on the same socket.

use std::io;
use std::path::Path;

use berth_admin_proto::v1::admin_server::Admin;
use berth_admin_proto::v1::import_images_request::Source;
use berth_admin_proto::v1::{
    ExportImagesRequest, ExportImagesResponse, ImportImagesRequest, ImportImagesResponse, NamedImage,
    PruneImagesRequest, PruneImagesResponse,
};
use berth_image::Image;
use berth_store::ErrorKind;
use futures_util::stream::{self, Stream, StreamExt};
use tokio_util::io::StreamReader;
use tonic::{Request, Response, Status, Streaming};

use crate::call::{Rpc, call};
use crate::convert::{Refusal, check};
use crate::{Edge, Failure};

#[tonic::async_trait]
impl Admin for Edge {
    async fn import_images(
        &self,
        request: Request<Streaming<ImportImagesRequest>>,
    ) -> Result<Response<ImportImagesResponse>, Status> {
        call(Rpc::Change("ImportImages"), import(self, request.into_inner())).await
    }

    async fn export_images(
        &self,
        request: Request<ExportImagesRequest>,
    ) -> Result<Response<ExportImagesResponse>, Status> {
        call(Rpc::Change("ExportImages"), export(self, request.into_inner())).await
    }

    async fn prune_images(
        &self,
        _request: Request<PruneImagesRequest>,
    ) -> Result<Response<PruneImagesResponse>, Status> {
        call(Rpc::Change("PruneImages"), prune(self)).await
    }
}

async fn import(
    edge: &Edge,
    requests: impl Stream<Item = Result<ImportImagesRequest, Status>> + Send,
) -> Result<ImportImagesResponse, Failure> {
    let mut requests = Box::pin(requests);
    let cut_short =
        |status: Status| Failure::new(ErrorKind::Invalid, format!("read archive: {}", status.message()));
    let first = requests.next().await.transpose().map_err(cut_short)?;
    let images = match first.and_then(|request| request.source) {
        None => return Err(Refusal::missing("source").into()),
        Some(Source::Path(path)) => edge.images.import(&check::absolute_path("path", &path)?).await?,
        Some(Source::Chunk(chunk)) => {
            let first = stream::iter([Ok(io::Cursor::new(chunk))]);
            edge.images.import_stream(StreamReader::new(first.chain(requests.map(chunk_of)))).await?
        }
    };
    Ok(ImportImagesResponse { images: images.iter().map(|image| named(image)).collect() })
}

fn chunk_of(request: Result<ImportImagesRequest, Status>) -> io::Result<io::Cursor<Vec<u8>>> {
    match request.map(|request| request.source) {
        Ok(Some(Source::Chunk(chunk))) => Ok(io::Cursor::new(chunk)),
        Ok(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "a message without a chunk")),
        Err(status) => Err(io::Error::other(status.message().to_owned())),
    }
}

async fn export(edge: &Edge, request: ExportImagesRequest) -> Result<ExportImagesResponse, Failure> {
    let path = check::absolute_path("path", &request.path)?;
    if request.references.is_empty() {
        return Err(Refusal::missing("references").into());
    }
    if size_of(&path).await.is_ok() {
        return Err(Failure::new(ErrorKind::Exists, format!("export images: {} exists", path.display())));
    }
    edge.images.export(&request.references, &path).await?;
    let unread = |error| Failure::new(ErrorKind::Internal, format!("look at {}: {error}", path.display()));
    Ok(ExportImagesResponse { written_bytes: size_of(&path).await.map_err(unread)? })
}

async fn prune(edge: &Edge) -> Result<PruneImagesResponse, Failure> {
    let (before, used_bytes) = (edge.images.list(), edge.images.fs_info().used_bytes);
    let removed = edge.images.prune().await?;
    let images = before.iter().filter(|image| removed.contains(&image.id));
    Ok(PruneImagesResponse {
        images: images.map(|image| named(image)).collect(),
        freed_bytes: used_bytes.saturating_sub(edge.images.fs_info().used_bytes),
    })
}

async fn size_of(path: &Path) -> io::Result<u64> {
    Ok(tokio::fs::symlink_metadata(path).await?.len())
}

fn named(image: &Image) -> NamedImage {
    NamedImage { id: image.id.to_string(), names: image.repo_tags.clone() }
}
