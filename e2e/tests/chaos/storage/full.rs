//! A disk that fills up, at every step of a pod's life and at any moment: the agent stays alive and says that it is not
//! ready and why, what runs goes on, what is stopped and removed goes, what can't be made leaves nothing; and when there is
//! room again, all is as before, without a restart.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use berth_cri_proto::v1::*;
use berth_dice::Dice;
use berth_e2e::cri::Answer;
use berth_e2e::{Cri, Disk, DiskKind, Node, eventually, repository, requests, run};

use crate::bystander::Bystander;
use crate::faults::client::{Efforts, live};
use crate::faults::pods::MadePod;
use crate::tally::{Tally, short_or_long};

const PATIENCE: Duration = Duration::from_secs(20);

/// Below it a node calls a disk full.
const ENOUGH_KIB: u64 = 1024;

/// What is done to a pod, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Run,
    Create,
    Start,
    /// Not the pod's: the agent is killed, and started again.
    KillAgent,
    StopAgent,
    Stop,
    Remove,
}

const STEPS: [Step; 7] =
    [Step::Run, Step::Create, Step::Start, Step::KillAgent, Step::StopAgent, Step::Stop, Step::Remove];

/// A pod with one container, as far as it has come.
struct Victim {
    config: PodSandboxConfig,
    pod: Option<String>,
    container: Option<String>,
}

impl Victim {
    fn new(node: &Node) -> Self {
        Self { config: node.sandbox("victim"), pod: None, container: None }
    }

    fn take(&mut self, cri: &Cri, step: Step) -> Answer<()> {
        let pod_sandbox_id = self.pod.clone().unwrap_or_default();
        match (step, &self.pod, &self.container) {
            (Step::Run, ..) => {
                let config = Some(self.config.clone());
                let request = RunPodSandboxRequest { config, ..Default::default() };
                self.pod = Some(cri.run_pod_sandbox(request)?.pod_sandbox_id);
            }
            (Step::Create, Some(_), _) => {
                let config = Some(requests::shell("main", "exec sleep 1000"));
                let sandbox_config = Some(self.config.clone());
                let request = CreateContainerRequest { pod_sandbox_id, config, sandbox_config };
                self.container = Some(cri.create_container(request)?.container_id);
            }
            (Step::Start, _, Some(id)) => {
                cri.start_container(StartContainerRequest { container_id: id.clone() })?;
            }
            (Step::Stop, Some(_), container) => {
                if let Some(id) = container {
                    cri.stop_container(StopContainerRequest { container_id: id.clone(), timeout: 0 })?;
                }
                cri.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id })?;
            }
            (Step::Remove, Some(_), container) => {
                if let Some(container_id) = container.clone() {
                    cri.remove_container(RemoveContainerRequest { container_id })?;
                }
                cri.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id })?;
            }
            // There is none, as it could not be made; and agents are killed by the caller.
            (
                Step::Create | Step::Start | Step::Stop | Step::Remove | Step::KillAgent | Step::StopAgent,
                ..,
            ) => {}
        }
        Ok(())
    }

    /// What is listed that should not be, or is not and should be.
    fn check(&self, cri: &Cri) -> Option<String> {
        let pods = cri.sandboxes().into_iter().map(|pod| pod.id).collect::<Vec<_>>();
        let containers = cri.containers().into_iter().map(|container| container.id).collect::<Vec<_>>();
        // The other pod and its container.
        let expected = (1 + usize::from(self.pod.is_some()), 1 + usize::from(self.container.is_some()));
        let is_right = (pods.len(), containers.len()) == expected
            && self.pod.as_ref().is_none_or(|id| pods.contains(id))
            && self.container.as_ref().is_none_or(|id| containers.contains(id));
        (!is_right).then(|| format!("listed are {pods:?} and {containers:?}"))
    }
}

/// A whole life, in which the disk fills up before one step. Returns what was wrong, and how many calls failed.
fn fill_before(node: &Node, disk: &Disk, left_kib: u64, step: Step) -> (Vec<String>, usize) {
    let (mut problems, mut failed) = (Vec::new(), 0);
    let mut victim = Victim::new(node);
    for now in STEPS {
        if now == step && now == Step::KillAgent {
            node.kill9();
        }
        if now == step && now == Step::StopAgent {
            node.stop();
        }
        if now == step {
            disk.fill(left_kib);
        }
        if matches!(now, Step::KillAgent | Step::StopAgent) && now == step {
            node.restart();
        }
        let cri = node.cri();
        if let Err(status) = victim.take(&cri, now) {
            failed += 1;
            let may_fail = matches!(now, Step::Run | Step::Create | Step::Start);
            if !may_fail {
                problems.push(format!("{now:?} fails: {status}"));
            }
        }
        if now == step && disk.free_kib() < ENOUGH_KIB {
            let (ready, why) = node.condition("RuntimeReady");
            if ready || !why.contains(disk.path().to_str().unwrap()) {
                problems.push(format!("ready is {ready}: {why:?}"));
            }
        }
        if now != Step::Remove {
            problems.extend(victim.check(&cri));
        }
    }
    disk.clear();
    eventually("the node to be ready again", PATIENCE, || node.condition("RuntimeReady").0.then_some(()));
    // What was left half made, it would meet.
    let mut again = Victim::new(node);
    for now in STEPS {
        problems
            .extend(again.take(&node.cri(), now).err().map(|status| format!("{now:?} with room: {status}")));
    }
    (problems, failed)
}

#[test]
#[ignore = "needs root and the test images"]
fn a_full_disk_ends_no_pod_and_keeps_none_from_ending() {
    for kind in short_or_long(&[DiskKind::Tmpfs][..], &[DiskKind::Tmpfs, DiskKind::Ext4]) {
        let (node, disks) = Node::start_on_small_disks("", *kind);
        run(node.berth(&["image", "import"]).arg(repository().join("hack/images/out/busybox")));
        node.pod("first").take_down();
        let mut bystander = Bystander::start(&node);
        let mut tally = Tally { what: "full disks", ..Tally::default() };
        let lefts = short_or_long(&[0][..], &[0, 4, 16, 64, 256, 1024, 4096]);
        for (disk, left_kib) in disks.iter().flat_map(|disk| lefts.iter().map(move |left| (disk, *left))) {
            for step in STEPS {
                let before = node.baseline();
                let (mut problems, failed) = fill_before(&node, disk, left_kib, step);
                problems.extend(bystander.check().err());
                let left = node.lasting_changes(&before.with_agent_of(&node.snapshot()));
                tally.tried += 1;
                tally.survived += usize::from(problems.is_empty() && left.is_empty());
                tally.retries += failed;
                tally.restarts += usize::from(matches!(step, Step::KillAgent | Step::StopAgent));
                if !problems.is_empty() || !left.is_empty() {
                    println!("{} with {left_kib} KiB left before {step:?}:", disk.path().display());
                    problems.iter().chain(&left).for_each(|line| println!("    {line}"));
                }
                tally.leftovers.extend(left);
            }
        }
        bystander.end();
        node.remove_image(requests::BUSYBOX);
        tally.remarks = format!("{kind:?}, at every step of a pod's life");
        tally.enter();
        assert!(tally.is_clean(), "see above");
        assert_eq!(node.check("--leaks"), [""; 0]);
    }
}

#[test]
#[ignore = "needs root and the test images"]
fn pods_live_on_a_disk_that_fills_up_at_any_moment() {
    let (node, disks) = Node::start_on_small_disks("", DiskKind::Ext4);
    run(node.berth(&["image", "import"]).arg(repository().join("hack/images/out/busybox")));
    live(&node, &MadePod::new(&node, "first", ""), &mut Efforts::default()).unwrap();
    let mut bystander = Bystander::start(&node);
    let before = node.baseline();
    let is_over = AtomicBool::new(false);
    let (mut efforts, mut problems, lives) = (Efforts::default(), Vec::new(), short_or_long(12, 200));
    let fills = thread::scope(|scope| {
        let filler = scope.spawn(|| fill_at_random(&disks, &is_over));
        for number in 0..lives {
            let lived = live(&node, &MadePod::new(&node, &format!("life-{number}"), ""), &mut efforts);
            problems.extend(lived.and(bystander.check()).err());
        }
        is_over.store(true, Ordering::Relaxed);
        filler.join().unwrap()
    });
    let left = node.lasting_changes(&before.with_agent_of(&node.snapshot()));
    bystander.end();
    node.remove_image(requests::BUSYBOX);
    problems.iter().chain(&left).for_each(|line| println!("    {line}"));
    let tally = Tally {
        what: "lives while disks fill up",
        tried: lives,
        survived: lives.saturating_sub(problems.len()),
        retries: efforts.retries,
        restarts: efforts.restarts,
        leftovers: left,
        remarks: format!("full {fills} times"),
    };
    tally.enter();
    assert!(tally.is_clean() && fills > 0, "see above");
    assert_eq!(efforts.restarts, 0, "an agent ended");
    assert_eq!(node.check("--leaks"), [""; 0]);
}

/// Fills one or the other and makes room again, until all is over.
#[allow(clippy::disallowed_methods, reason = "how long a disk is full is not waited for, it is drawn")]
fn fill_at_random(disks: &[Disk], is_over: &AtomicBool) -> usize {
    let mut dice = Dice::new(berth_dice::seed_or(7));
    let mut fills = 0;
    while !is_over.load(Ordering::Relaxed) {
        let disk = &disks[dice.below(disks.len())];
        disk.fill(dice.one_of(&[0, 0, 4, 12, 40, 100]));
        fills += 1;
        thread::sleep(Duration::from_millis(100 + dice.below(300) as u64));
        disk.clear();
        thread::sleep(Duration::from_millis(dice.below(200) as u64));
    }
    fills
}

#[test]
#[ignore = "needs root and the test images"]
fn on_a_full_disk_a_log_loses_lines_which_is_told_and_images_can_be_removed() {
    let (node, disks) = Node::start_on_small_disks("", DiskKind::Ext4);
    let root = &disks[0];
    run(node.berth(&["image", "import"]).arg(repository().join("hack/images/out/busybox")));
    run(node.berth(&["image", "import"]).arg(repository().join("hack/images/out/web")));
    let logs = root.path().join("logs-of-pods");
    let config = PodSandboxConfig { log_directory: logs.to_str().unwrap().into(), ..node.sandbox("talks") };
    let pod = berth_e2e::Pod::run(&node, config);
    let wait = "mkfifo /tmp/go; read x < /tmp/go; i=0; while [ $i -lt 30000 ]; do echo $((i=i+1)); done";
    let talks = pod.shell("talks", wait);
    pod.exec(&talks, "until [ -p /tmp/go ]; do :; done");
    root.fill(0);
    // What an image takes is what a kubelet frees first.
    node.remove_image(requests::WEB);
    root.fill(0);
    pod.exec(&talks, "echo > /tmp/go");
    assert_eq!(pod.end_of(&talks).exit_code, 0, "the container waits for a disk");
    let told = || node.journal().contains("log could not be written").then_some(());
    eventually("the lost lines to be told", PATIENCE, told);
    assert!(node.journal().contains("No space left"), "{}", node.journal());
    root.clear();
    eventually("the node to be ready again", PATIENCE, || node.condition("RuntimeReady").0.then_some(()));
    let short = lines_of(&pod.log_path("talks"));
    assert!(short.len() < 30_000, "nothing was lost");
    assert_eq!(pod.end_of(&pod.shell("again", "echo here")).exit_code, 0);
    assert_eq!(pod.log("again"), ["here"]);
    pod.take_down();
    node.remove_image(requests::BUSYBOX);
    fs::remove_dir_all(logs).unwrap();
    assert_eq!(node.check("--leaks"), [""; 0]);
    let tally = Tally { what: "logs on a full disk", tried: 1, survived: 1, ..Tally::default() };
    tally.enter();
}

fn lines_of(path: &PathBuf) -> Vec<String> {
    String::from_utf8_lossy(&fs::read(path).unwrap()).lines().map(str::to_owned).collect()
}
