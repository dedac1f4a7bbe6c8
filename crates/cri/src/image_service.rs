//! `ImageService`, the list of its calls in the API's order: each line says where a call is handled.

use berth_cri_proto::v1::image_service_server::ImageService;
// All messages of the contract; naming each would be as long as the list below.
use berth_cri_proto::v1::*;
use tonic::{Request, Response, Status};

use crate::answers::Answers;
use crate::call::{Rpc, call};
use crate::{Edge, image_fs_info, image_status, list_images, pull_image, remove_image};

#[tonic::async_trait]
impl ImageService for Edge {
    async fn list_images(
        &self,
        request: Request<ListImagesRequest>,
    ) -> Result<Response<ListImagesResponse>, Status> {
        call(Rpc::Routine("ListImages"), list_images::handle(self, request.into_inner())).await
    }

    type StreamImagesStream = Answers<StreamImagesResponse>;
    async fn stream_images(
        &self,
        request: Request<StreamImagesRequest>,
    ) -> Result<Response<Answers<StreamImagesResponse>>, Status> {
        call(Rpc::Routine("StreamImages"), list_images::stream(self, request.into_inner())).await
    }

    async fn image_status(
        &self,
        request: Request<ImageStatusRequest>,
    ) -> Result<Response<ImageStatusResponse>, Status> {
        call(Rpc::Routine("ImageStatus"), image_status::handle(self, request.into_inner())).await
    }

    async fn pull_image(
        &self,
        request: Request<PullImageRequest>,
    ) -> Result<Response<PullImageResponse>, Status> {
        call(Rpc::Change("PullImage"), pull_image::handle(self, request.into_inner())).await
    }

    async fn remove_image(
        &self,
        request: Request<RemoveImageRequest>,
    ) -> Result<Response<RemoveImageResponse>, Status> {
        call(Rpc::Change("RemoveImage"), remove_image::handle(self, request.into_inner())).await
    }

    async fn image_fs_info(
        &self,
        _request: Request<ImageFsInfoRequest>,
    ) -> Result<Response<ImageFsInfoResponse>, Status> {
        call(Rpc::Routine("ImageFsInfo"), async { Ok(image_fs_info::handle(self)) }).await
    }
}
