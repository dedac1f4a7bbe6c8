//! Agents come and go under load: killed at any moment, also while they start, stopped in an orderly way, and replaced by
//! builds that speak another version of the protocol between agent and monitors, up and down. Pods write numbered lines
//! into logs that are rotated, are probed, and have containers that end with codes of their own; images are pulled. No
//! line is lost or doubled, no exit code lost, and no call fails but for want of an agent. Then the machine is started
//! anew: all that was is known and can be removed.
//!
//! `MODEL_SEED` gives other moments, `CHAOS_PODS` another number of pods, and `CHAOS_BUILD` names the program that
//! takes turns with this build: an earlier one, say, in the place of one that passes for the next.

mod load;
mod outages;
mod users;
mod versions;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use berth_cri_proto::v1::*;
use berth_dice::{Dice, seed_or};
use berth_e2e::{
    Build, Cri, Node, REGISTRY, Running, eventually, repository, requests, run, spawn, start_registry,
};
use rustix::process::Signal;

use load::{LoadedPod, STOPPED};
use outages::User;
use users::Scene;

use crate::tally::{Tally, short_or_long};

/// For all that must come to an end some time.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who probes: each has a share of the pods.
const PROBERS: usize = 4;

/// A build of the next version, which still speaks this one.
const NEXT: Build = Build::Speaking("2-3");

/// What an exec session runs that is open while the agent goes.
const LEFT_OPEN: &str = "sleep 4321";

/// What becomes of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blow {
    Kill,
    /// And once more while the next one starts.
    KillTwice,
    Terminate,
}

/// One for the whole test.
#[derive(Debug)]
struct Trial<'a> {
    node: &'a Node,
    scene: &'a Scene,
    dice: Dice,
    pace_s: f32,
    /// From the start of an agent to its first answer, which had all pods.
    recoveries: Vec<Duration>,
}

#[test]
#[ignore = "needs root, the test images, crictl, docker-registry and the program that hack/chaos builds"]
fn pods_run_on_and_nothing_is_lost_whatever_becomes_of_their_agents() {
    let (seed, pods) = (seed_or(1), number("CHAOS_PODS", short_or_long(20, 200)) as usize);
    let rounds = short_or_long(10, 100);
    println!("MODEL_SEED={seed}");
    let node = Node::start_empty(&format!("[registries.hosts.'{REGISTRY}']\nplain_http = true"));
    run(node.berth(&["image", "import"]).arg(repository().join("hack/images/out/busybox")));
    // What an agent makes with its first pod and keeps is no leftover.
    node.pod("first").take_down();
    let before = node.baseline();
    let mut registry = start_registry(&node);
    let scene = Scene::default();

    // 200 pods that write every 50 ms would be most of what this machine does.
    let slowly = 1.0 + pods as f32 / 50.0;
    let mut trial = Trial {
        node: &node,
        scene: &scene,
        dice: Dice::new(seed << 8),
        pace_s: 0.05 * slowly,
        recoveries: vec![],
    };
    trial.add_pods(pods - pods / 4);
    let survived = thread::scope(|scope| {
        let user = || User::new(node.cri(), &scene.outages);
        for share in 0..PROBERS {
            let (user, scene) = (user(), &scene);
            scope.spawn(move || scene.probe(&user, share, PROBERS, Duration::from_secs_f32(slowly)));
        }
        let (rotating, pulling, burying, scene) = (user(), user(), user(), &scene);
        scope.spawn(move || scene.rotate(&rotating, Dice::new(seed << 8 | 1)));
        scope.spawn(move || scene.pull(&pulling));
        scope.spawn(move || scene.bury(&burying, (6.0 * slowly) as usize, Dice::new(seed << 8 | 2)));
        // Whatever becomes of it, the others must end.
        let _finish = Finish(scene);
        trial.go_through(rounds, pods / 4)
    });
    registry.signal(Signal::TERM);
    registry.wait(Duration::from_secs(10)).expect("the registry stops");
    let mut leftovers = trial.end();
    leftovers.extend(node.lasting_changes(&before.with_agent_of(&node.snapshot())));
    run(&mut node.berth(&["check", "--leaks"]));
    node.remove_image(requests::BUSYBOX);

    let problems = scene.outages.problems();
    problems.iter().for_each(|problem| println!("    {problem}"));
    let tally = Tally {
        what: "restarts under load",
        tried: rounds,
        survived,
        retries: scene.outages.excused(),
        restarts: trial.recoveries.len(),
        leftovers,
        remarks: trial.remarks(),
    };
    tally.enter();
    assert!(
        tally.is_clean() && problems.is_empty(),
        "see above; MODEL_SEED={seed} has the same moments again"
    );
}

/// Ends the scene with this value.
struct Finish<'a>(&'a Scene);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.outages.finish();
    }
}

fn number(variable: &str, usual: u64) -> u64 {
    std::env::var(variable)
        .map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

impl Trial<'_> {
    fn add_pods(&mut self, count: usize) {
        for _ in 0..count {
            let pod = LoadedPod::make(self.node, self.scene.pods().len(), self.pace_s);
            self.scene.pods.write().unwrap().push(Arc::new(pod));
        }
    }

    /// All blows; returns after how many of them all was well. The other build's first agent gets `more` pods.
    fn go_through(&mut self, rounds: usize, more: usize) -> usize {
        let other = std::env::var_os("CHAOS_BUILD").map_or(NEXT, |path| Build::At(path.into()));
        let builds = [Build::Ordinary, other.clone(), Build::Ordinary, other, Build::Ordinary];
        let each = rounds / builds.len();
        let mut survived = 0;
        for (turn, build) in builds.into_iter().enumerate() {
            self.node.replace_program(build);
            for round in 0..each {
                let problems = self.scene.outages.problems().len();
                self.strike(round);
                if (turn, round) == (1, 0) {
                    self.add_pods(more);
                }
                survived += usize::from(self.scene.outages.problems().len() == problems);
            }
        }
        survived
    }

    /// One agent's end, and the beginning of the next.
    fn strike(&mut self, round: usize) {
        let blow = match (round, self.dice.below(10)) {
            (0, _) | (_, 0..6) => Blow::Kill,
            (1, _) | (_, 6..8) => Blow::Terminate,
            _ => Blow::KillTwice,
        };
        let open = (round < 2).then(|| Open::through(self.node, &self.scene.pods()[0].counter));
        self.scene.outages.pace(Duration::from_millis(self.dice.below(1500) as u64));
        self.scene.outages.begin();
        match blow {
            Blow::Kill => self.node.kill9(),
            Blow::Terminate => self.node.stop(),
            Blow::KillTwice => {
                self.node.kill9();
                self.node.launch();
                self.scene.outages.pace(Duration::from_millis(self.dice.below(150) as u64));
                self.node.kill9();
            }
        }
        // Containers end meanwhile.
        self.scene.outages.pace(Duration::from_millis(self.dice.below(400) as u64));
        self.recover();
        if let Some(complaint) = open.and_then(|open| open.complaint(self.node)) {
            self.scene.outages.complain(format!("after {blow:?}: {complaint}"));
        }
    }

    /// Starts an agent, whose first answers must be right.
    fn recover(&mut self) {
        let begun = Instant::now();
        self.node.launch();
        let mut ready = false;
        let sandboxes = eventually("the agent's first answer", PATIENCE, || {
            let cri = Cri::connect(&self.node.socket())?;
            let status = cri.status(StatusRequest::default()).ok()?.status?;
            ready = status.conditions.iter().all(|condition| condition.status);
            Some(cri.list_pod_sandbox(ListPodSandboxRequest::default()).ok()?.items)
        });
        self.recoveries.push(begun.elapsed());
        self.scene.outages.end();
        let pods = self.scene.pods();
        let wrong = sandboxes.iter().filter(|sandbox| {
            sandbox.state() != PodSandboxState::SandboxReady || !pods.iter().any(|pod| pod.id == sandbox.id)
        });
        let wrong: Vec<_> = wrong.collect();
        if !ready || sandboxes.len() != pods.len() || !wrong.is_empty() {
            let found = format!("ready {ready}, {} of {} pods", sandboxes.len(), pods.len());
            self.scene.outages.complain(format!("an agent's first answer was {found}, wrong {wrong:?}"));
        }
    }

    /// Looks at what has become of all pods, stops some, has the machine start anew, and removes them. What is left.
    fn end(&self) -> Vec<String> {
        let (outages, pods) = (&self.scene.outages, self.scene.pods());
        let cri = self.node.cri();
        let (stopped, running) = pods.split_at(pods.len() / 2);
        for pod in &pods {
            let status = cri.container(&pod.counter).unwrap();
            if status.state() != ContainerState::ContainerRunning {
                outages.complain(format!("pod {}: its counter is {status:?}", pod.number));
            }
        }
        for pod in stopped {
            let container_id = pod.counter.clone();
            cri.stop_container(StopContainerRequest { container_id, timeout: 20 }).unwrap();
        }
        for problem in pods.iter().filter_map(|pod| pod.counted().err()) {
            outages.complain(problem);
        }
        self.node.reboot();
        self.node.restart();
        let cri = self.node.cri();
        for pod in stopped {
            let status = cri.container(&pod.counter).unwrap();
            if status.exit_code != STOPPED {
                outages.complain(format!("pod {}: its counter was stopped, and is {status:?}", pod.number));
            }
        }
        for pod in running {
            let status = cri.container(&pod.counter).unwrap();
            if (status.state(), &status.reason[..]) != (ContainerState::ContainerExited, "Unknown") {
                outages.complain(format!("pod {}: its counter was lost, and is {status:?}", pod.number));
            }
        }
        let sandboxes = cri.sandboxes();
        let lost = sandboxes.iter().filter(|one| one.state() == PodSandboxState::SandboxNotready).count();
        if (lost, sandboxes.len()) != (pods.len(), pods.len()) {
            outages.complain(format!(
                "{lost} of {} sandboxes are not ready, of {}",
                sandboxes.len(),
                pods.len()
            ));
        }
        for pod in &pods {
            cri.take_down(&pod.id).unwrap();
            pod.remove_logs();
        }
        let listed = cri.sandboxes().into_iter().map(|one| format!("+ sandbox {}", one.id));
        listed.chain(cri.containers().into_iter().map(|one| format!("+ container {}", one.id))).collect()
    }

    fn remarks(&self) -> String {
        let count = |of: &AtomicUsize| of.load(Ordering::Relaxed);
        let Scene { probes, rotations, exits, pulls, .. } = self.scene;
        let mut recoveries = self.recoveries.clone();
        recoveries.sort();
        let (median, longest) = (recoveries[recoveries.len() / 2], recoveries[recoveries.len() - 1]);
        format!(
            "{} pods: back after {} ms (median; at most {}); {} probes, {} exits, {} rotations, {} pulls",
            self.scene.pods().len(),
            median.as_millis(),
            longest.as_millis(),
            count(probes),
            count(exits),
            count(rotations),
            count(pulls),
        )
    }
}

/// Streams that are open while the agent goes.
#[derive(Debug)]
struct Open([(&'static str, Running); 2]);

impl Open {
    /// One that runs a command, and one that is attached.
    fn through(node: &Node, container: &str) -> Self {
        let open = |name: &'static str, args: &[&str]| {
            let output = node.dir().join(format!("{name}.out"));
            let _ = std::fs::remove_file(&output);
            let client = spawn(node.crictl_command().args(args), &output);
            eventually("a stream's first line", PATIENCE, || has_a_line(&output).then_some(()));
            (name, client)
        };
        let script = format!("echo here; exec {LEFT_OPEN}");
        Self([
            open("exec", &["exec", container, "sh", "-c", &script]),
            open("attach", &["attach", container]),
        ])
    }

    /// Each has ended, and what ran in it too.
    fn complaint(self, node: &Node) -> Option<String> {
        for (name, mut client) in self.0 {
            if client.wait(PATIENCE).is_none() {
                return Some(format!("a client of {name} waits on: {}", client.output()));
            }
        }
        eventually("the command's end", PATIENCE, || node.process(LEFT_OPEN).is_none().then_some(()));
        None
    }
}

fn has_a_line(output: &Path) -> bool {
    std::fs::read(output).is_ok_and(|bytes| bytes.contains(&b'\n'))
}
