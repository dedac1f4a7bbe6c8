//! A client and a server of the generated code meet over a Unix socket.

use berth_cri_proto::{
    connect,
    v1::{
        ListImagesRequest, VersionRequest, image_service_client::ImageServiceClient,
        runtime_service_client::RuntimeServiceClient,
    },
};
use tonic::{Code, service::Routes, transport::Server};

#[tokio::test]
async fn connect_fails_at_once_and_names_an_absent_socket() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("absent.sock");
    let error = connect(&path).await.unwrap_err();
    assert!(error.to_string().contains("absent.sock"), "{error}");
}

#[tokio::test]
async fn one_channel_carries_both_services() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("with a space.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
    let server = tokio::spawn(Server::builder().add_routes(Routes::default()).serve_with_incoming(incoming));

    let channel = connect(&path).await.unwrap();
    let version = RuntimeServiceClient::new(channel.clone()).version(VersionRequest::default()).await;
    let images = ImageServiceClient::new(channel).list_images(ListImagesRequest::default()).await;
    assert_eq!(version.unwrap_err().code(), Code::Unimplemented);
    assert_eq!(images.unwrap_err().code(), Code::Unimplemented);
    server.abort();
}
