//! The commands as a user meets them: the real binary, run against an agent that only knows berth's own calls.

#![allow(clippy::unwrap_used, reason = "a test may panic, and so may what it is made of")]

use berth_admin_proto::v1::admin_server::{Admin, AdminServer};
use berth_admin_proto::v1::import_images_request::Source;
use berth_admin_proto::v1::pull_image_response::Step;
use berth_admin_proto::v1::{
    Account, ExplainRequest, ExplainResponse, ExportImagesRequest, ExportImagesResponse, ImportImagesRequest,
    ImportImagesResponse, InventoryItem, NamedImage, PruneImagesRequest, PruneImagesResponse,
    PullImageRequest, PullImageResponse, PullProgress, TakeInventoryRequest, TakeInventoryResponse, Trouble,
};
use std::io::{Seek, Write};
use std::path::Path;
use std::process::Output;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::process::Command;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status, Streaming};

/// Answers with what it was asked.
struct Echo;

#[tonic::async_trait]
impl Admin for Echo {
    type PullImageStream = tokio_stream::Iter<std::vec::IntoIter<Result<PullImageResponse, Status>>>;
    async fn pull_image(
        &self,
        request: Request<PullImageRequest>,
    ) -> Result<Response<Self::PullImageStream>, Status> {
        let PullImageRequest { reference, credentials } = request.into_inner();
        let end = match (reference.as_str(), credentials) {
            ("cut", _) => None,
            ("absent", _) => Some(Err(Status::not_found("the registry does not have it"))),
            (_, None) => Some(Ok(Step::Id(reference))),
            (_, Some(given)) => {
                Some(Ok(Step::Id(format!("{reference} {}:{}", given.username, given.password))))
            }
        };
        let progress = Ok(Step::Progress(PullProgress { layers: 1, ..PullProgress::default() }));
        let steps = [progress].into_iter().chain(end);
        let answers = steps.map(|step| step.map(|step| PullImageResponse { step: Some(step) }));
        Ok(Response::new(tokio_stream::iter(answers.collect::<Vec<_>>())))
    }

    async fn import_images(
        &self,
        request: Request<Streaming<ImportImagesRequest>>,
    ) -> Result<Response<ImportImagesResponse>, Status> {
        let mut requests = request.into_inner();
        let (mut names, mut received_bytes) = (Vec::new(), 0);
        while let Some(request) = requests.message().await? {
            match request.source {
                Some(Source::Path(path)) => names.push(path),
                Some(Source::Chunk(chunk)) => received_bytes += chunk.len(),
                None => return Err(Status::invalid_argument("import images: no source")),
            }
        }
        let images = vec![NamedImage { id: format!("sha256:{received_bytes:064}"), names }];
        Ok(Response::new(ImportImagesResponse { images }))
    }

    async fn export_images(
        &self,
        request: Request<ExportImagesRequest>,
    ) -> Result<Response<ExportImagesResponse>, Status> {
        let request = request.into_inner();
        Err(Status::not_found(format!("export {} to {}", request.references.join("+"), request.path)))
    }

    async fn prune_images(
        &self,
        _: Request<PruneImagesRequest>,
    ) -> Result<Response<PruneImagesResponse>, Status> {
        Ok(Response::new(PruneImagesResponse { images: Vec::new(), freed_bytes: 3 << 20 }))
    }

    type TakeInventoryStream = tokio_stream::Iter<std::vec::IntoIter<Result<TakeInventoryResponse, Status>>>;
    async fn take_inventory(
        &self,
        request: Request<TakeInventoryRequest>,
    ) -> Result<Response<Self::TakeInventoryStream>, Status> {
        let repair = request.into_inner().repair;
        let item = |standing: &str, kind: &str, name: &str, owner: Option<&str>, outcome: Option<&str>| {
            let outcome = outcome.filter(|_| repair).map(str::to_owned);
            let (standing, kind, name) = (standing.to_owned(), kind.to_owned(), name.to_owned());
            InventoryItem { standing, kind, name, owner: owner.map(str::to_owned), outcome }
        };
        let message = |item| Ok(TakeInventoryResponse { items: vec![item] });
        let answers = vec![
            message(item("owned", "cgroup", "/berth/a", Some("pod a"), None)),
            message(item("left", "cgroup", "/berth/b", None, Some("removed"))),
        ];
        Ok(Response::new(tokio_stream::iter(answers)))
    }

    async fn explain(&self, request: Request<ExplainRequest>) -> Result<Response<ExplainResponse>, Status> {
        let subject = request.into_inner().subject;
        let account = |troubles| Account {
            kind: "pod".to_owned(),
            name: subject.clone().unwrap_or_default(),
            state: "ready".to_owned(),
            troubles,
            ..Account::default()
        };
        let trouble = |what: &str| Trouble {
            what: what.to_owned(),
            detail: "it hangs".to_owned(),
            advice: "wait".to_owned(),
        };
        let accounts = match subject.as_deref() {
            None => Vec::new(),
            Some("absent") => return Err(Status::not_found("no pod sandbox \"absent\"")),
            Some("hung") => std::future::pending().await,
            Some("unwell") => vec![account(vec![trouble("monitor")])],
            Some(_) => vec![account(Vec::new())],
        };
        Ok(Response::new(ExplainResponse { accounts }))
    }
}

/// Serves until the test ends.
fn start_agent(socket: &Path) {
    let listener = UnixListener::bind(socket).unwrap();
    let server = tonic::transport::Server::builder().add_service(AdminServer::new(Echo));
    tokio::spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
}

/// Runs the binary to its end, which is expected soon.
async fn berth(socket: &Path, args: &[&str], input: &[u8]) -> Output {
    let mut stdin = tempfile::tempfile().unwrap();
    stdin.write_all(input).unwrap();
    stdin.rewind().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_berth"));
    command.args(args).arg("--socket").arg(socket).current_dir("/").stdin(stdin).kill_on_drop(true);
    tokio::time::timeout(Duration::from_secs(20), command.output()).await.unwrap().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn images_are_imported_by_absolute_path_or_from_standard_input() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    start_agent(&socket);
    let output = berth(&socket, &["image", "import", "a.tar", "/b"], &[]).await;
    assert_eq!(text(&output.stdout), "imported 000000000000 /a.tar\nimported 000000000000 /b\n");
    let output = berth(&socket, &["image", "import", "-"], &[7; 1_000_000]).await;
    assert_eq!(text(&output.stderr), "");
    assert!(text(&output.stdout).starts_with("imported "), "{output:?}");
}

#[tokio::test]
async fn a_pull_ends_with_the_id_or_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    start_agent(&socket);
    let check = async |args: &[&str], stdout: &str, stderr: &str| {
        let output = berth(&socket, &[&["image", "pull"], args].concat(), b"s3cret\n").await;
        assert_eq!((text(&output.stdout), text(&output.stderr)), (stdout, stderr), "{args:?}");
        assert_eq!(output.status.success(), stderr.is_empty(), "{args:?}");
    };
    check(&["r.example/x"], "r.example/x\n", "").await;
    check(&["r.example/x", "--user", "ann", "--password-stdin"], "r.example/x ann:s3cret\n", "").await;
    check(&["absent"], "", "berth: pull absent: the registry does not have it\n").await;
    check(&["cut"], "", "berth: pull cut: the agent's answer ended without an image\n").await;
}

#[tokio::test]
async fn an_error_of_the_agent_is_printed_with_what_was_attempted() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    start_agent(&socket);
    let output = berth(&socket, &["image", "export", "-o", "out.tar", "x", "y"], &[]).await;
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stderr), "berth: export images: export x+y to /out.tar\n");
    let output = berth(&socket, &["image", "prune"], &[]).await;
    assert_eq!(text(&output.stdout), "freed 3.0 MiB\n");
}

#[tokio::test]
async fn an_inventory_is_a_table_of_what_is_wrong_and_the_status_tells() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    start_agent(&socket);
    let check = async |args: &[&str], code: i32, stdout: &str| {
        let output = berth(&socket, &[&["check"], args].concat(), &[]).await;
        assert_eq!((text(&output.stdout), output.status.code()), (stdout, Some(code)), "{output:?}");
    };
    check(&["--leaks"], 1, "left  cgroup  /berth/b  nobody\n").await;
    check(&["--leaks", "--all"], 1, "owned  cgroup  /berth/a  pod a\nleft   cgroup  /berth/b  nobody\n")
        .await;
    let json = "{\"standing\":\"left\",\"kind\":\"cgroup\",\"name\":\"/berth/b\"}\n";
    check(&["--leaks", "--json"], 1, json).await;
    check(&["--repair"], 0, "left  cgroup  /berth/b  nobody  removed\n").await;
}

#[tokio::test]
async fn an_explanation_names_what_is_wrong_and_the_status_tells() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    start_agent(&socket);
    let check = async |args: &[&str], code: i32, stdout: &str, stderr: &str| {
        let output = berth(&socket, &[&["explain"], args].concat(), &[]).await;
        let told = (text(&output.stdout), text(&output.stderr), output.status.code());
        assert_eq!(told, (stdout, stderr, Some(code)), "{args:?}");
    };
    check(&[], 0, "all well\n", "").await;
    check(&["web"], 0, "pod web: ready\n", "").await;
    check(&["unwell"], 1, "pod unwell: ready\n  ! monitor: it hangs\n    → wait\n", "").await;
    check(&["absent"], 1, "", "berth: explain: no pod sandbox \"absent\"\n").await;
    let late = format!(
        "berth: the agent on {} has not answered within 15 s: see whether process {} is stopped, or short of CPU\n",
        socket.display(),
        std::process::id()
    );
    check(&["hung"], 1, "", &late).await;
}

#[tokio::test]
async fn a_missing_agent_is_named_by_its_socket() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let manifest = dir.path().join("pod.yaml");
    std::fs::write(
        &manifest,
        "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: c, image: i}]}}",
    )
    .unwrap();
    let advice = format!("no agent answers on {}; start `berth serve`\n", socket.display());
    let check = async |args: &[&str], attempt: &str| {
        let output = berth(&socket, args, &[]).await;
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert_eq!(text(&output.stderr), format!("berth: {attempt}{advice}"), "{args:?}");
    };
    let commands: [(&[&str], _); 3] =
        [(&["ns"], ""), (&["image", "list"], ""), (&["run", "-d", manifest.to_str().unwrap()], "detach: ")];
    for (args, attempt) in commands {
        check(args, attempt).await;
    }
    // As after an agent that was killed.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    check(&["ns"], "").await;
}
