//! Plays a sequence on a node, and holds every answer, and all that can be seen between them, against the model.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::time::Duration;

use berth_cri_proto::v1::*;
use berth_e2e::{Cri, Node, eventually, whole_lines};
use tonic::{Code, Status};

use super::steps::{Client, ContainerCall, Script, Step};
use super::world::{Answer, Container as Place, World};

const PATIENCE: Duration = Duration::from_secs(30);

/// What is wrong, if anything is.
pub(crate) type Result<T> = std::result::Result<T, String>;

/// How often each call got each answer.
pub(crate) type Answers = BTreeMap<(String, String), usize>;

/// A client at work.
#[derive(Debug)]
pub(crate) struct Player<'a> {
    pub(super) node: &'a Node,
    pub(super) cri: Cri,
    pub(super) client: Client,
    pub(super) world: World,
    /// How many times something has begun to write to a log.
    pub(super) begun: HashMap<PathBuf, usize>,
    pub(crate) answers: Answers,
}

impl<'a> Player<'a> {
    pub(crate) fn new(node: &'a Node, client: Client) -> Self {
        let (world, begun, answers) = (World::new(), HashMap::new(), Answers::new());
        Self { node, cri: node.cri(), client, world, begun, answers }
    }

    /// Takes one step, and looks at everything.
    pub(crate) fn play(&mut self, step: &Step) -> Result<()> {
        let want = self.world.foresee(step);
        let (found, made) = match self.call(step) {
            // The id of what has just been made can't be foreseen.
            Ok(Answer::Same(id)) if want == Ok(Answer::Made) => (Ok(Answer::Made), Some(id)),
            found => (found, None),
        };
        self.count(step, &found);
        match (&found, &want) {
            (Ok(found), Ok(want)) if found == want => {}
            (Err(found), Err(want)) if found.code() == *want => {}
            _ => return Err(format!("the answer is {found:?} and should be {want:?}")),
        }
        self.world.settle(step, made);
        if let (Step::Container(container, ContainerCall::Start), Ok(_)) = (step, found) {
            self.world.meant(*container).into_iter().for_each(|at| self.await_start(at));
        }
        self.compare()
    }

    /// Removes all that is there.
    pub(crate) fn clear(&mut self) -> Result<()> {
        for pod in self.world.pods.iter().filter(|pod| pod.life.is_some()) {
            self.cri.take_down(&pod.id).map_err(|status| status.to_string())?;
        }
        self.world = World { images: self.world.images, ..World::new() };
        self.compare()
    }

    fn count(&mut self, step: &Step, answer: &std::result::Result<Answer, Status>) {
        let answer = answer.as_ref().map_or_else(|status| status.code(), |_| Code::Ok);
        *self.answers.entry((step.name(), format!("{answer:?}"))).or_default() += 1;
    }

    /// Until it does what its script says.
    fn await_start(&mut self, (pod, place): (usize, usize)) {
        let Place { id, life } = &self.world.pods[pod].containers[place];
        match life.as_ref().map(|life| life.script) {
            // Only now it hears that it is to end.
            Some(Script::Polite) => {
                let log = self.log(pod, place);
                let begun = self.begun.entry(log.clone()).or_default();
                *begun += 1;
                eventually("the container to be ready", PATIENCE, || {
                    (log.exists() && whole_lines(&log).len() >= *begun).then_some(())
                });
            }
            Some(Script::Brief) => eventually("the container's end", PATIENCE, || {
                let runs = |status: &ContainerStatus| status.state() == ContainerState::ContainerRunning;
                (!self.cri.container(id).as_ref().is_ok_and(runs)).then_some(())
            }),
            Some(Script::Deaf | Script::Absent) | None => {}
        }
    }
}
