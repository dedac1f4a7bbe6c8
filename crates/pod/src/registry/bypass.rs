//! What goes past a pod's driver: commands, attached clients and connections into its network. They need the monitor
//! alone, so they work while a container is being made or stopped.

use std::sync::Arc;
use std::time::Duration;

use berth_monitor::id::PodId;
use tokio::net::TcpStream;

use super::Pods;
use crate::attach::attach;
use crate::error::{Error, Result};
use crate::exec::{Command, ExecOutput, exec, exec_sync};
use crate::lifecycle::container;
use crate::lifecycle::sandbox::{self, Answer, Contact, Request};
use crate::link::{Link, Reach};
use crate::port_forward::connect;
use crate::process::{Process, Wanted};
use crate::view::{ContainerView, PodView};

impl Pods {
    /// Runs a command in a running container; `None` gives it all the time it wants.
    ///
    /// # Errors
    /// `WrongState` unless the container runs; `ExecTimeout` after everything in the session has been killed.
    pub async fn exec_sync(
        &self,
        id: &str,
        args: Vec<String>,
        limit: Option<Duration>,
    ) -> Result<ExecOutput> {
        let container = self.running_container(id)?;
        let link = self.link_for(Request::JoinContainer, &container.pod, || not_running(id))?;
        exec_sync(&link, &container.id, args, limit, self.0.host.settings.exec_output_bytes).await
    }

    /// Starts a command in a running container. Dropping the process hangs up, and kills what does not end by that.
    ///
    /// # Errors
    /// `WrongState` unless the container runs; the program can't be executed.
    pub async fn exec(&self, id: &str, command: Command) -> Result<Process> {
        let container = self.running_container(id)?;
        let link = self.link_for(Request::JoinContainer, &container.pod, || not_running(id))?;
        exec(&link, &container.id, command).await
    }

    /// Joins a client to a running container. Dropping the process leaves the container as it is, but for an input that
    /// was for one client only.
    ///
    /// # Errors
    /// `WrongState` unless the container runs, or if it has as many clients as it can have.
    pub async fn attach(&self, id: &str, wanted: Wanted) -> Result<Process> {
        let container = self.running_container(id)?;
        let link = self.link_for(Request::JoinContainer, &container.pod, || not_running(id))?;
        attach(&link, &container.id, container.spec.stdin_once, wanted).await
    }

    /// Connects to a port on the loopback of a pod.
    ///
    /// # Errors
    /// `WrongState` unless the pod is ready; `Connect` when nobody listens.
    pub async fn port_forward(&self, id: &str, port: u16) -> Result<TcpStream> {
        let pod = self.ready_pod(id)?;
        let link = self.link_for(Request::PortForward, &pod.id, || not_ready(id))?;
        connect(&link, port).await
    }

    /// The container with this id, which must run.
    ///
    /// # Errors
    /// `NoContainer`, `AmbiguousId`, `WrongState`.
    pub fn running_container(&self, id: &str) -> Result<Arc<ContainerView>> {
        let container = self.container(id)?;
        container::answer(container::Request::Join, container.state.stage()).admits(id)?;
        Ok(container)
    }

    /// The pod with this id, which must be ready.
    ///
    /// # Errors
    /// `NoPod`, `AmbiguousId`, `WrongState`.
    pub fn ready_pod(&self, id: &str) -> Result<Arc<PodView>> {
        let pod = self.snapshot().pod(id)?.clone();
        // Whether it can be reached is seen when it is connected to.
        let answer = sandbox::answer(Request::PortForward, Some(pod.state), Contact::Open);
        if answer == Answer::Do { Ok(pod) } else { Err(not_ready(id)) }
    }

    /// The connection to a pod's monitor, while there is one.
    pub(crate) fn link(&self, pod: &PodId) -> Option<Link> {
        match &*self.reach(pod) {
            Reach::Open(link) => Some(link.clone()),
            Reach::Gone | Reach::Blocked(_) => None,
        }
    }

    /// Why a pod's monitor can't be asked, although there is one.
    pub(crate) fn blockage(&self, pod: &PodId) -> Option<String> {
        match &*self.reach(pod) {
            Reach::Open(_) | Reach::Gone => None,
            Reach::Blocked(why) => Some(why.clone()),
        }
    }

    /// The connection to a pod's monitor, for a request that the pod allows; `refused` says what it means that it does
    /// not.
    fn link_for(&self, request: Request, pod: &PodId, refused: impl FnOnce() -> Error) -> Result<Link> {
        let state = self.snapshot().pods.get(pod).map(|pod| pod.state);
        self.reach(pod).link_for(request, pod, state, refused)
    }

    fn reach(&self, pod: &PodId) -> Arc<Reach> {
        self.handle(pod).map(|handle| handle.reach.load_full()).unwrap_or_default()
    }
}

fn not_running(id: &str) -> Error {
    Error::WrongState { object: format!("container {id}"), state: "is not running" }
}

fn not_ready(id: &str) -> Error {
    Error::WrongState { object: format!("pod sandbox {id}"), state: "is not ready" }
}
