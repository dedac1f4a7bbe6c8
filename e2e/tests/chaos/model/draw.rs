//! Sequences drawn by lot. Most of their steps find something to do: a world is thought up along with them, for which the
//! model is enough.

use berth_dice::Dice;

use super::steps::{
    CONTAINERS, Client, ContainerCall, ContainerRef, Form, IMAGES, ImageCall, Kind, PODS, PodCall, PodRef,
    Script, Step,
};
use super::world::{Answer, World};

/// One in so many of the steps that would be refused or find nothing to do is taken all the same.
const IN_VAIN: usize = 10;

/// Draws a sequence.
pub(crate) fn draw(seed: u64, count: usize, client: Client) -> Vec<Step> {
    let mut dice = Dice::new(seed);
    let mut world = World::new();
    let draw = |_| loop {
        let step = Step::draw(&mut dice, client);
        let answer = world.foresee(&step);
        let made = (answer == Ok(Answer::Made)).then(|| format!("{0:016x}{0:048x}", dice.throw()));
        let mut next = world.clone();
        next.settle(&step, made);
        if next != world || (answer.is_ok() && step.only_asks()) || dice.once_in(IN_VAIN) {
            world = next;
            return step;
        }
    };
    (0..count).map(draw).collect()
}

impl Step {
    fn only_asks(&self) -> bool {
        match self {
            Self::Pod(_, call) => *call == PodCall::Show,
            Self::Container(_, call) => {
                matches!(call, ContainerCall::Exec { .. } | ContainerCall::Reopen | ContainerCall::Show)
            }
            Self::Image(_, call) => *call == ImageCall::Show,
            Self::ListPods { .. } | Self::ListContainers { .. } | Self::KillAgent => true,
            Self::RunPod { .. } | Self::KillMonitor(_) => false,
        }
    }

    fn draw(dice: &mut Dice, client: Client) -> Self {
        let pod = PodRef::draw(dice, client);
        match dice.below(100) {
            0..8 => Self::RunPod { pod: pod.0, other: dice.once_in(8) },
            8..34 => Self::Pod(pod, PodCall::draw(dice)),
            34..84 => Self::Container(ContainerRef::draw(dice, pod), ContainerCall::draw(dice)),
            84..87 => Self::ListPods {
                id: dice.once_in(2).then_some(pod),
                ready: dice.once_in(2).then(|| dice.once_in(2)),
                label: dice.once_in(3).then(|| dice.below(PODS)),
            },
            87..91 => Self::ListContainers {
                id: dice.once_in(3).then(|| ContainerRef::draw(dice, pod)),
                pod: dice.once_in(2).then_some(pod),
                state: dice.once_in(2).then(|| dice.one_of(&[Kind::Created, Kind::Running, Kind::Exited])),
                label: dice.once_in(3).then(|| Script::draw(dice)),
            },
            91 => Self::KillMonitor(pod.0),
            92 if client == Client::Alone => Self::KillAgent,
            _ if client == Client::Alone => Self::Image(dice.below(IMAGES.len()), ImageCall::draw(dice)),
            _ => Self::Container(ContainerRef::draw(dice, pod), ContainerCall::Show),
        }
    }
}

impl PodCall {
    fn draw(dice: &mut Dice) -> Self {
        match dice.below(25) {
            0 => Self::Stop,
            1..3 => Self::Remove,
            3 => Self::Show,
            _ => Self::Create { place: dice.below(CONTAINERS.len()), script: Script::draw(dice) },
        }
    }
}

impl ContainerCall {
    fn draw(dice: &mut Dice) -> Self {
        match dice.below(50) {
            0..20 => Self::Start,
            20..25 => Self::Stop { grace: dice.one_of(&[0, 30, 30, -1]) },
            25..31 => Self::Remove,
            31..39 => Self::Exec { code: dice.one_of(&[0, 1, 77]) },
            39..44 => Self::Update { shares: dice.one_of(&[2, 512, 4096]) },
            44..48 => Self::Reopen,
            _ => Self::Show,
        }
    }
}

impl ImageCall {
    fn draw(dice: &mut Dice) -> Self {
        dice.one_of(&[Self::Pull, Self::Pull, Self::Pull, Self::Remove, Self::Show])
    }
}

impl Script {
    fn draw(dice: &mut Dice) -> Self {
        match dice.below(10) {
            0..5 => Self::Polite,
            5..7 => Self::Deaf,
            7..9 => Self::Brief,
            _ => Self::Absent,
        }
    }
}

impl PodRef {
    fn draw(dice: &mut Dice, client: Client) -> Self {
        let form = match dice.below(30) {
            0..20 => Form::Whole,
            20..27 => Form::Short,
            // Nobody knows what ids the others' pods have.
            27 if client == Client::Alone => Form::Letter,
            28 => Form::Unknown,
            29 => Form::Nothing,
            _ => Form::Whole,
        };
        Self(dice.below(PODS), form)
    }
}

impl ContainerRef {
    fn draw(dice: &mut Dice, PodRef(pod, form): PodRef) -> Self {
        Self(pod, dice.below(CONTAINERS.len()), form)
    }
}
