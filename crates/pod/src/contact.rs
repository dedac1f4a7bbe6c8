//! Contact with a pod's monitor: lost, sought, taken up again, or given up, with the pod. What is to be made of a monitor
//! that can't be reached, `lifecycle::sandbox` says.

use std::time::{Duration, Instant};

use berth_fault::point;
use berth_store::with_causes;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::driver::{Driver, LOSS, Monitor, passing};
use crate::error::{Error, Result};
use crate::host::blocking;
use crate::lifecycle::sandbox::{Remedy, remedy};
use crate::link::{Connected, Greeting, Link, News};

/// How long a pod waits for its monitor's greeting before it does something else meanwhile; so long takes the start of
/// an agent at most for monitors that hang.
const GREETING_PATIENCE: Duration = Duration::from_secs(3);

/// What the timeline says of a pod whose monitor has gone by itself.
const MONITOR_DIED: &str = "its monitor has died, or was killed";

impl Driver {
    /// The connection has ended, or there was none yet. A monitor that has only lost its patience with us is found
    /// again, and tells what happened meanwhile; one that has died took pause with it; one that hangs is waited for
    /// beside all else.
    pub(crate) async fn monitor_is_gone(&mut self) {
        if self.monitor.is_some() {
            self.set_monitor(None);
        }
        let call = match Link::call(&self.host.pod_directory(&self.id)) {
            Ok(call) => call,
            Err(error) => return self.monitor_is_reached(Err(error)).await,
        };
        let silence = call.silence(&self.id, GREETING_PATIENCE);
        let greeting = passing(point!("reach the monitor again"), call.greeting());
        let mut greeting = AbortOnDropHandle::new(tokio::spawn(greeting));
        match timeout(GREETING_PATIENCE, &mut greeting).await {
            Ok(reached) => self.monitor_is_reached(reached.unwrap_or(Err(Error::Abandoned))).await,
            Err(_) => {
                self.out_of_reach(&silence);
                self.greeting = Some(greeting);
            }
        }
    }

    /// Takes in what came of a connection to the monitor.
    pub(crate) async fn monitor_is_reached(&mut self, reached: Result<Connected>) {
        let error = match reached {
            Ok((link, greeting, news)) => return self.take_over(link, greeting, news).await,
            Err(error) => error,
        };
        match remedy(error.silence()) {
            Remedy::Kill => {
                let error = with_causes(&error);
                tracing::warn!(pod.id = %self.id, error, "monitor has died; its pod is killed");
                self.lose_monitor(MONITOR_DIED).await;
            }
            Remedy::WriteOff(wait) => {
                self.call_again(&error, wait);
                self.not_ready().await;
            }
            Remedy::CallAgain(wait) => self.call_again(&error, wait),
        }
    }

    fn call_again(&mut self, error: &Error, wait: Duration) {
        self.out_of_reach(error);
        self.reach_again = Some(Instant::now() + wait);
    }

    /// Takes up a connection to a monitor that has been running, and brings the containers up to date.
    pub(crate) async fn take_over(
        &mut self,
        link: Link,
        greeting: Greeting,
        news: mpsc::UnboundedReceiver<News>,
    ) {
        let (pid, pause_pid) = (greeting.hello.pid, greeting.hello.pause_pid);
        self.set_monitor(Some(Monitor { link, news, pid, pause_pid }));
        self.take_reports(&greeting.containers).await;
        if pause_pid.is_none() {
            self.not_ready().await;
        }
        self.publish();
    }

    /// Gives the monitor up, dead or hung: all that is left of the pod is killed by cgroup, the monitor too. `loss` is
    /// what the timeline says of it.
    pub(crate) async fn lose_monitor(&mut self, loss: &str) {
        self.timeline.push(LOSS, Duration::ZERO, Some(loss.to_owned()));
        self.set_monitor(None);
        self.lose_containers().await;
        self.kill_own_processes().await;
        self.not_ready().await;
        self.publish();
    }

    pub(crate) async fn kill_own_processes(&self) {
        for path in self.own_cgroups().unwrap_or_default() {
            let entry = self.host.cgroups.open(&path).entry();
            let _ = blocking(move || berth_cgroup::kill_all(&entry)).await;
        }
    }
}
