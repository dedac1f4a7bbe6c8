//! The service `berth.v1.Admin`: what `berth image` and `berth check` need and CRI lacks, on the same socket.

use std::io;
use std::path::Path;
use std::time::Duration;

use berth_admin_proto::v1::admin_server::Admin;
use berth_admin_proto::v1::import_images_request::Source;
use berth_admin_proto::v1::pull_image_response::Step;
use berth_admin_proto::v1::{
    ExplainRequest, ExplainResponse, ExportImagesRequest, ExportImagesResponse, ImportImagesRequest,
    ImportImagesResponse, InventoryItem, NamedImage, PruneImagesRequest, PruneImagesResponse,
    PullImageRequest, PullImageResponse, PullProgress, TakeInventoryRequest, TakeInventoryResponse,
};
use berth_image::{Auth, Image, ImageId, ImageStore, Imported, PullRequest, Reference};
use berth_pod::inventory::{Cure, Item};
use berth_store::ErrorKind;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, Stream, StreamExt};
use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_util::io::StreamReader;
use tonic::{Request, Response, Status, Streaming};

use crate::answers::{Answers, in_parts};
use crate::call::{Rpc, call, record_image};
use crate::convert::{Refusal, check};
use crate::{Edge, Failure};

/// How often the progress of a pull is told: enough for a person who watches it.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

#[tonic::async_trait]
impl Admin for Edge {
    type PullImageStream = Answers<PullImageResponse>;
    async fn pull_image(
        &self,
        request: Request<PullImageRequest>,
    ) -> Result<Response<Answers<PullImageResponse>>, Status> {
        Ok(Response::new(pull(self, request.into_inner())))
    }

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

    type TakeInventoryStream = Answers<TakeInventoryResponse>;
    async fn take_inventory(
        &self,
        request: Request<TakeInventoryRequest>,
    ) -> Result<Response<Answers<TakeInventoryResponse>>, Status> {
        let cure = if request.into_inner().repair { Cure::Repair } else { Cure::Report };
        let rpc = match cure {
            Cure::Report => Rpc::Routine("TakeInventory"),
            Cure::Repair => Rpc::Change("TakeInventory"),
        };
        call(rpc, async { Ok(inventory_of(self.pods.inventory(cure).await?)) }).await
    }

    async fn explain(&self, request: Request<ExplainRequest>) -> Result<Response<ExplainResponse>, Status> {
        call(Rpc::Routine("Explain"), crate::explain::handle(self, request.into_inner())).await
    }
}

/// In messages that stay well below the limit of one.
fn inventory_of(items: Vec<Item>) -> Answers<TakeInventoryResponse> {
    let items: Vec<InventoryItem> = items.into_iter().map(inventory_item).collect();
    in_parts(items, |items| TakeInventoryResponse { items })
}

fn inventory_item(item: Item) -> InventoryItem {
    let Item { standing, kind, name, owner, outcome } = item;
    InventoryItem { standing: standing.to_string(), kind: kind.to_string(), name, owner, outcome }
}

/// A pull as one client watches it. The pull itself has a task of its own.
struct Watch {
    images: ImageStore,
    /// As the image store shows it; empty if it is none, which the pull reports.
    reference: String,
    /// The call is over when the pull is, so that is what its outcome line tells.
    outcome: BoxFuture<'static, Result<Response<ImageId>, Status>>,
    ticks: Interval,
    told: Option<PullProgress>,
}

fn pull(edge: &Edge, request: PullImageRequest) -> Answers<PullImageResponse> {
    let PullImageRequest { reference, credentials } = request;
    let auth = credentials.map(|given| Auth::Basic { username: given.username, password: given.password });
    let shown = Reference::parse(&reference).map(|reference| reference.to_string()).unwrap_or_default();
    let (images, request) = (edge.images.clone(), PullRequest { reference, auth });
    let outcome = async move {
        record_image(&request.reference);
        Ok(images.pull(&request).await?)
    };
    let mut ticks = interval(PROGRESS_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let watch = Watch {
        images: edge.images.clone(),
        reference: shown,
        outcome: call(Rpc::Change("PullImage"), outcome).boxed(),
        ticks,
        told: None,
    };
    stream::unfold(Some(watch), |watch| async { Some(watch?.next().await) }).boxed()
}

impl Watch {
    /// The next message, and the watch unless that was the last.
    async fn next(mut self) -> (Result<PullImageResponse, Status>, Option<Self>) {
        loop {
            tokio::select! {
                outcome = &mut self.outcome => {
                    let id = outcome.map(|id| Step::Id(id.into_inner().to_string()));
                    return (id.map(|id| PullImageResponse { step: Some(id) }), None);
                }
                _ = self.ticks.tick() => {
                    let news = self.progress().filter(|progress| self.told != Some(*progress));
                    if let Some(progress) = news {
                        self.told = news;
                        return (Ok(PullImageResponse { step: Some(Step::Progress(progress)) }), Some(self));
                    }
                }
            }
        }
    }

    /// Where equal names are pulled with different credentials, it is the first of them that is shown.
    fn progress(&self) -> Option<PullProgress> {
        let pull = self.images.progress().into_iter().find(|pull| pull.reference == self.reference)?;
        Some(PullProgress {
            layers_done: pull.layers_done,
            layers: pull.layers,
            bytes_done: pull.bytes_done,
            bytes: pull.bytes,
        })
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
    let named = |imported: Imported| NamedImage { id: imported.image.id.to_string(), names: imported.names };
    Ok(ImportImagesResponse { images: images.into_iter().map(named).collect() })
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
    let (before, used_bytes) = (edge.images.list(), edge.images.fs_info().used.bytes);
    let removed = edge.images.prune().await?;
    let images = before.iter().filter(|image| removed.contains(&image.id));
    Ok(PruneImagesResponse {
        images: images.map(|image| named(image)).collect(),
        freed_bytes: used_bytes.saturating_sub(edge.images.fs_info().used.bytes),
    })
}

async fn size_of(path: &Path) -> io::Result<u64> {
    Ok(tokio::fs::symlink_metadata(path).await?.len())
}

fn named(image: &Image) -> NamedImage {
    NamedImage { id: image.id.to_string(), names: image.repo_tags.clone() }
}
