//! What a node should be like, as a simple model: which pods and containers there are, in which state, and what it
//! should answer to a call. The model decides by the API's words alone and knows nothing of how a node does it.

use std::collections::BTreeSet;

use tonic::Code;

use super::steps::{
    CONTAINERS, ContainerCall, ContainerRef, Form, IMAGES, ImageCall, Kind, PODS, PodCall, PodRef, Script,
    Step,
};

/// An id that nothing has.
const NEVER: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
/// How many characters of an id crictl shows.
const SHORT: usize = 13;
/// The pods that want the same port of the host.
pub(crate) const RIVALS: [usize; 2] = [0, 1];

/// What a container that was asked to end says with its exit code.
pub(crate) const POLITE_CODE: i32 = 7;
const ASKED: End = End { code: POLITE_CODE, reason: "Error" };
const KILLED: End = End { code: 137, reason: "Error" };
const LOST: End = End { code: 255, reason: "Unknown" };

/// What a call is answered, if it is not refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Done,
    /// Something was made that was not there.
    Made,
    /// What was made earlier.
    Same(String),
    /// How a command ended.
    Exit(i32),
    /// These ids, in any order.
    Listed(BTreeSet<String>),
    /// Whether it is there.
    There(bool),
}

/// All that a client knows of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct World {
    pub(crate) pods: [Pod; PODS],
    pub(crate) images: [bool; IMAGES.len()],
}

/// An identity, and what was last made of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pod {
    pub(crate) id: String,
    /// None before and after.
    pub(crate) life: Option<PodLife>,
    pub(crate) containers: [Container; CONTAINERS.len()],
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodLife {
    pub(crate) ready: bool,
    /// Made with another configuration than usual.
    pub(crate) other: bool,
}

/// A place in a pod, and what was last made there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) life: Option<ContainerLife>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ContainerLife {
    pub(crate) script: Script,
    pub(crate) state: State,
    /// Since the last change of them.
    pub(crate) shares: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    Created,
    Running,
    Exited(End),
}

/// What is told of an end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) code: i32,
    pub(crate) reason: &'static str,
}

impl World {
    /// In which nothing has been made, and all images are there.
    pub(crate) fn new() -> Self {
        let container = Container { id: NEVER.to_owned(), life: None };
        let pod =
            Pod { id: NEVER.to_owned(), life: None, containers: std::array::from_fn(|_| container.clone()) };
        Self { pods: std::array::from_fn(|_| pod.clone()), images: [true; IMAGES.len()] }
    }

    /// The answer that a step must get; a refusal by its code.
    pub(crate) fn foresee(&self, step: &Step) -> Result<Answer, Code> {
        match step {
            Step::RunPod { pod, other } => self.foresee_run(*pod, *other),
            Step::Pod(pod, PodCall::Stop | PodCall::Remove) => self.pod_if_any(*pod).map(|_| Answer::Done),
            Step::Pod(pod, PodCall::Show) => self.pod(*pod).map(|_| Answer::Done),
            Step::Pod(pod, PodCall::Create { place, script }) => {
                self.pod(*pod).and_then(|pod| self.foresee_create(pod, *place, *script))
            }
            Step::Container(container, call) => self.foresee_container_call(*container, *call),
            Step::Image(image, ImageCall::Remove) if self.is_used(*image) => Err(Code::FailedPrecondition),
            Step::Image(_, ImageCall::Pull | ImageCall::Remove) => Ok(Answer::Done),
            Step::Image(image, ImageCall::Show) => Ok(Answer::There(self.images[*image])),
            Step::ListPods { id, ready, label } => Ok(Answer::Listed(self.listed_pods(*id, *ready, *label))),
            Step::ListContainers { id, pod, state, label } => {
                Ok(Answer::Listed(self.listed_containers(*id, *pod, *state, *label)))
            }
            Step::KillAgent | Step::KillMonitor(_) => Ok(Answer::Done),
        }
    }

    /// Takes in what a step has done, which was answered as foreseen; `made` is the id of what it made.
    pub(crate) fn settle(&mut self, step: &Step, made: Option<String>) {
        match *step {
            Step::RunPod { pod, other } => {
                if let Some(id) = made {
                    let life = Some(PodLife { ready: true, other });
                    (self.pods[pod].id, self.pods[pod].life) = (id, life);
                }
            }
            Step::Pod(pod, call) => {
                if let Ok(Some(pod)) = self.pod_if_any(pod) {
                    self.pods[pod].settle(call, made);
                }
            }
            Step::Container(container, call) => {
                if let Ok(Some((pod, place))) = self.container_if_any(container) {
                    self.pods[pod].containers[place].settle(call);
                }
            }
            Step::Image(image, ImageCall::Pull) => self.images[image] = true,
            Step::Image(image, ImageCall::Remove) => self.images[image] &= self.is_used(image),
            Step::KillMonitor(pod) => self.pods[pod].end(&LOST),
            Step::Image(_, ImageCall::Show)
            | Step::ListPods { .. }
            | Step::ListContainers { .. }
            | Step::KillAgent => {}
        }
    }

    /// The text by which a step names a pod.
    pub(crate) fn pod_id(&self, PodRef(pod, form): PodRef) -> String {
        written(&self.pods[pod].id, form)
    }

    /// The text by which a step names a container.
    pub(crate) fn container_id(&self, ContainerRef(pod, place, form): ContainerRef) -> String {
        written(&self.pods[pod].containers[place].id, form)
    }

    /// Which container a step means, if it is there.
    pub(crate) fn meant(&self, container: ContainerRef) -> Option<(usize, usize)> {
        self.container_if_any(container).ok().flatten()
    }

    /// What is known of a container that is there.
    pub(crate) fn life(&self, (pod, place): (usize, usize)) -> &ContainerLife {
        self.pods[pod].containers[place].life.as_ref().unwrap()
    }

    fn foresee_run(&self, pod: usize, other: bool) -> Result<Answer, Code> {
        let Pod { id, life, .. } = &self.pods[pod];
        match life {
            Some(life) if life.ready && life.other == other => Ok(Answer::Same(id.clone())),
            Some(_) => Err(Code::AlreadyExists),
            None => {
                let has_port = |rival: &usize| self.pods[*rival].life.as_ref().is_some_and(|life| life.ready);
                let is_taken = RIVALS.contains(&pod) && RIVALS.iter().any(has_port);
                if is_taken { Err(Code::AlreadyExists) } else { Ok(Answer::Made) }
            }
        }
    }

    fn foresee_create(&self, pod: usize, place: usize, script: Script) -> Result<Answer, Code> {
        if self.pods[pod].life.as_ref().is_none_or(|life| !life.ready) {
            return Err(Code::FailedPrecondition);
        }
        let Container { id, life } = &self.pods[pod].containers[place];
        match life {
            Some(life) if life.script == script && life.state == State::Created => {
                Ok(Answer::Same(id.clone()))
            }
            Some(_) => Err(Code::AlreadyExists),
            None if self.images[image_of(place)] => Ok(Answer::Made),
            None => Err(Code::NotFound),
        }
    }

    fn foresee_container_call(&self, container: ContainerRef, call: ContainerCall) -> Result<Answer, Code> {
        let life = || Ok(self.life(self.container(container)?));
        let refused = Err(Code::FailedPrecondition);
        match call {
            ContainerCall::Stop { grace: ..0 } => Err(Code::InvalidArgument),
            ContainerCall::Stop { .. } | ContainerCall::Remove => {
                self.container_if_any(container).map(|_| Answer::Done)
            }
            ContainerCall::Show => life().map(|_| Answer::Done),
            ContainerCall::Start => match life()? {
                ContainerLife { state: State::Running | State::Exited(_), .. } => refused,
                ContainerLife { script: Script::Absent, .. } => Err(Code::Internal),
                ContainerLife { .. } => Ok(Answer::Done),
            },
            ContainerCall::Update { .. } if life()?.kind() == Kind::Exited => refused,
            ContainerCall::Update { .. } => Ok(Answer::Done),
            ContainerCall::Exec { .. } | ContainerCall::Reopen if life()?.kind() != Kind::Running => refused,
            ContainerCall::Exec { code } => Ok(Answer::Exit(code)),
            ContainerCall::Reopen => Ok(Answer::Done),
        }
    }

    /// What a list with this filter has. The beginning of several ids names none of them.
    fn listed_pods(&self, id: Option<PodRef>, ready: Option<bool>, label: Option<usize>) -> BTreeSet<String> {
        (0..PODS)
            .filter(|at| id.is_none_or(|id| self.is_pod(id, *at)))
            .filter(|at| label.is_none_or(|label| label == *at))
            .map(|at| &self.pods[at])
            .filter(|pod| pod.life.as_ref().is_some_and(|life| ready.is_none_or(|ready| ready == life.ready)))
            .map(|pod| pod.id.clone())
            .collect()
    }

    fn listed_containers(
        &self,
        id: Option<ContainerRef>,
        pod: Option<PodRef>,
        state: Option<Kind>,
        label: Option<Script>,
    ) -> BTreeSet<String> {
        let is_wanted = |life: &ContainerLife| {
            state.is_none_or(|state| state == life.kind()) && label.is_none_or(|label| label == life.script)
        };
        places()
            .filter(|(at, _)| pod.is_none_or(|pod| self.is_pod(pod, *at)))
            .filter(|at| id.is_none_or(|id| self.is_container(id, *at)))
            .map(|(at, place)| &self.pods[at].containers[place])
            .filter(|container| container.life.as_ref().is_some_and(is_wanted))
            .map(|container| container.id.clone())
            .collect()
    }

    /// An empty id in a filter asks for nothing.
    fn is_pod(&self, id: PodRef, at: usize) -> bool {
        id.1 == Form::Nothing || matches!(self.pod_if_any(id), Ok(Some(found)) if found == at)
    }

    fn is_container(&self, id: ContainerRef, at: (usize, usize)) -> bool {
        id.2 == Form::Nothing || matches!(self.container_if_any(id), Ok(Some(found)) if found == at)
    }

    /// For calls about something that must be there.
    fn pod(&self, pod: PodRef) -> Result<usize, Code> {
        self.pod_if_any(pod)?.ok_or(Code::NotFound)
    }

    /// For calls that bring it about that it is not.
    fn pod_if_any(&self, pod: PodRef) -> Result<Option<usize>, Code> {
        let alive = (0..PODS).filter(|at| self.pods[*at].life.is_some());
        found(alive.filter(|at| begins(&self.pods[*at].id, &self.pod_id(pod))))
    }

    fn container(&self, container: ContainerRef) -> Result<(usize, usize), Code> {
        self.container_if_any(container)?.ok_or(Code::NotFound)
    }

    fn container_if_any(&self, container: ContainerRef) -> Result<Option<(usize, usize)>, Code> {
        let text = self.container_id(container);
        let alive = places().filter(|(pod, place)| self.pods[*pod].containers[*place].life.is_some());
        found(alive.filter(|(pod, place)| begins(&self.pods[*pod].containers[*place].id, &text)))
    }

    /// An image is kept while a container has it, whatever that does.
    fn is_used(&self, image: usize) -> bool {
        let places = self.pods.iter().flat_map(|pod| pod.containers.iter().enumerate());
        places.into_iter().any(|(place, container)| container.life.is_some() && image_of(place) == image)
    }
}

impl Pod {
    fn settle(&mut self, call: PodCall, made: Option<String>) {
        match (call, made) {
            (PodCall::Stop, _) => self.end(&KILLED),
            (PodCall::Remove, _) => {
                self.life = None;
                self.containers.iter_mut().for_each(|container| container.life = None);
            }
            (PodCall::Create { place, script }, Some(id)) => {
                let life = Some(ContainerLife { script, state: State::Created, shares: None });
                self.containers[place] = Container { id, life };
            }
            (PodCall::Create { .. }, None) | (PodCall::Show, _) => {}
        }
    }

    /// With all of its containers, if it is there.
    fn end(&mut self, how: &End) {
        self.life.iter_mut().for_each(|life| life.ready = false);
        self.containers
            .iter_mut()
            .filter_map(|container| container.life.as_mut())
            .for_each(|life| life.end(how));
    }
}

impl Container {
    /// What a call does to one that is there.
    fn settle(&mut self, call: ContainerCall) {
        let Some(life) = &mut self.life else { return };
        match call {
            ContainerCall::Start if life.state == State::Created => {
                life.state = match life.script {
                    Script::Polite | Script::Deaf => State::Running,
                    Script::Brief => State::Exited(End { code: 0, reason: "Completed" }),
                    Script::Absent => State::Exited(End { code: 128, reason: "StartError" }),
                }
            }
            ContainerCall::Stop { grace: 1.. } if life.is(State::Running, Script::Polite) => life.end(&ASKED),
            ContainerCall::Stop { grace: 0.. } => life.end(&KILLED),
            ContainerCall::Remove => self.life = None,
            ContainerCall::Update { shares } if life.kind() != Kind::Exited => life.shares = Some(shares),
            ContainerCall::Start
            | ContainerCall::Stop { .. }
            | ContainerCall::Update { .. }
            | ContainerCall::Exec { .. }
            | ContainerCall::Reopen
            | ContainerCall::Show => {}
        }
    }
}

impl ContainerLife {
    fn is(&self, state: State, script: Script) -> bool {
        (&self.state, self.script) == (&state, script)
    }

    /// One that has ended stays as it is.
    fn end(&mut self, how: &End) {
        if self.kind() != Kind::Exited {
            self.state = State::Exited(how.clone());
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        match self.state {
            State::Created => Kind::Created,
            State::Running => Kind::Running,
            State::Exited(_) => Kind::Exited,
        }
    }
}

fn places() -> impl Iterator<Item = (usize, usize)> {
    (0..PODS).flat_map(|pod| (0..CONTAINERS.len()).map(move |place| (pod, place)))
}

/// Which of the images a container has.
pub(crate) fn image_of(place: usize) -> usize {
    place % IMAGES.len()
}

fn written(id: &str, form: Form) -> String {
    match form {
        Form::Whole => id,
        Form::Short => &id[..SHORT],
        Form::Letter => &id[..1],
        Form::Unknown => NEVER,
        Form::Nothing => "",
    }
    .to_owned()
}

/// Nothing begins with nothing.
fn begins(id: &str, with: &str) -> bool {
    !with.is_empty() && id.starts_with(with)
}

/// The one that was found; the beginning of several is a mistake.
fn found<T>(mut found: impl Iterator<Item = T>) -> Result<Option<T>, Code> {
    match (found.next(), found.next()) {
        (one, None) => Ok(one),
        (_, Some(_)) => Err(Code::InvalidArgument),
    }
}
