//! Which pod a request means by its name: each name is one pod's, from the moment in which somebody begins to make it
//! until nothing of it can be asked for, and then the next one's. What a request comes to that finds a pod is
//! [`run_again`](super::sandbox::run_again)'s.

use std::collections::HashMap;

use berth_monitor::id::PodId;

use crate::spec::PodIdentity;

/// The pods that have a name, each with what the node has of it.
#[derive(Debug)]
pub(crate) struct Names<T> {
    by_id: HashMap<PodId, T>,
    by_identity: HashMap<PodIdentity, PodId>,
}

impl<T> Default for Names<T> {
    fn default() -> Self {
        Self { by_id: HashMap::new(), by_identity: HashMap::new() }
    }
}

impl<T> Names<T> {
    /// The pod that has this name.
    pub(crate) fn find(&self, identity: &PodIdentity) -> Option<(&PodId, &T)> {
        self.by_id.get_key_value(self.by_identity.get(identity)?)
    }

    pub(crate) fn get(&self, id: &PodId) -> Option<&T> {
        self.by_id.get(id)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (&PodId, &T)> {
        self.by_id.iter()
    }

    /// Gives a pod its name, which is free.
    pub(crate) fn enter(&mut self, identity: &PodIdentity, id: &PodId, pod: T) {
        self.by_identity.insert(identity.clone(), id.clone());
        self.by_id.insert(id.clone(), pod);
    }

    /// Takes a pod's name away; one that another pod has by now stays that one's.
    pub(crate) fn forget(&mut self, identity: &PodIdentity, id: &PodId) {
        self.by_id.remove(id);
        if self.by_identity.get(identity) == Some(id) {
            self.by_identity.remove(identity);
        }
    }
}

#[cfg(test)]
mod tests {
    use berth_dice::{Dice, seed, steps_or};

    use super::*;

    #[test]
    fn a_name_is_one_pods_whoever_else_is_still_being_forgotten() {
        let (seed, steps) = (seed(), steps_or(20_000));
        println!("MODEL_SEED={seed} MODEL_STEPS={steps}");
        let mut dice = Dice::new(seed);
        let mut names = Names::default();
        // Who has each name, and who had it.
        let (mut has, mut had) = ([None; 3], Vec::new());
        for number in 0..steps {
            let name = dice.below(has.len());
            let found = names.find(&identity(name)).map(|(id, number)| (id.clone(), *number));
            assert_eq!(found, has[name].map(|number| (id(number), number)));
            match (has[name], dice.below(3)) {
                (None, _) => {
                    names.enter(&identity(name), &id(number), number);
                    has[name] = Some(number);
                }
                (Some(number), 0) => {
                    names.forget(&identity(name), &id(number));
                    assert_eq!(names.get(&id(number)), None);
                    (has[name], had) = (None, vec![(name, number)]);
                }
                // Once more, as when a removal and a failure come together.
                (Some(_), 1) => {
                    had.iter().for_each(|(name, number)| names.forget(&identity(*name), &id(*number)))
                }
                (Some(number), _) => assert_eq!(names.get(&id(number)), Some(&number)),
            }
            assert_eq!(names.all().count(), has.iter().flatten().count());
        }
    }

    fn identity(name: usize) -> PodIdentity {
        let text = |what: &str| format!("{what}-{}", name % 2);
        // Two of them differ in the attempt alone.
        let attempt = u32::from(name > 1);
        PodIdentity { name: text("name"), namespace: text("namespace"), uid: text("uid"), attempt }
    }

    fn id(number: usize) -> PodId {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        PodId::from_random(bytes)
    }
}
