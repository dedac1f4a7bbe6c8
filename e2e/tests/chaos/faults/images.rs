//! The life of an image: pulled, and removed.

use berth_cri_proto::v1::*;
use berth_e2e::cri::Answer;
use berth_e2e::{Cri, REGISTRY};

use super::client::{Goal, Life};

/// An image of the registry's.
#[derive(Debug)]
pub(crate) struct PulledImage;

impl Life for PulledImage {
    fn step(&self, cri: &Cri, goal: Goal) -> Answer<bool> {
        let spec = Some(ImageSpec { image: format!("{REGISTRY}/berth/web:latest"), ..Default::default() });
        let status = cri.image_status(ImageStatusRequest { image: spec.clone(), verbose: false })?;
        match (goal, status.image) {
            (Goal::Used, Some(_)) => Ok(true),
            (Goal::Used, None) => {
                cri.pull_image(PullImageRequest { image: spec, ..Default::default() }).map(|_| false)
            }
            // Until the call itself says so: a removal that failed half way is repeated.
            (Goal::Gone, image) => {
                cri.remove_image(RemoveImageRequest { image: spec }).map(|_| image.is_none())
            }
        }
    }
}
