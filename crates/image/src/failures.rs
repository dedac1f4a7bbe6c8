//! What the places of one repository failed with, as one error that names each of them.

use berth_store::with_causes;

use crate::Error;

/// Characters of one place's failure that are shown: an address and a cause or two.
const SHOWN_CHARS: usize = 400;

/// Places whose failures are shown: more than anybody has, and an end for the message.
const SHOWN_PLACES: usize = 8;

/// In the order of trying.
#[derive(Debug, Default)]
pub(crate) struct Failures(Vec<(String, Error)>);

impl Failures {
    /// Notes one more, at the endpoint with this address.
    pub(crate) fn add(&mut self, api: &str, error: Error) {
        self.0.push((api.to_owned(), error));
    }

    /// None where nothing failed. The last, which is the registry's own, says of what kind it is.
    pub(crate) fn into_error(mut self) -> Option<Error> {
        let (api, last) = self.0.pop()?;
        if self.0.is_empty() {
            return Some(last);
        }
        let mut tried: Vec<_> =
            self.0.iter().take(SHOWN_PLACES - 1).map(|(api, error)| shown(api, error)).collect();
        let more = self.0.len() - tried.len();
        if more > 0 {
            tried.push(format!("{more} more"));
        }
        tried.push(shown(&api, &last));
        Some(Error::Everywhere { tried: tried.join("; "), last: Box::new(last) })
    }
}

fn shown(api: &str, error: &Error) -> String {
    let text = format!("{api}: {}", with_causes(error));
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_store::ErrorKind;

    fn failures(reasons: &[&str]) -> Option<Error> {
        let mut failures = Failures::default();
        for (index, reason) in reasons.iter().enumerate() {
            let what = (*reason).to_owned();
            let error = Error::TooLarge { what, limit: "1 byte".to_owned() };
            failures.add(&format!("https://m{index}/v2"), error);
        }
        failures.into_error()
    }

    #[test]
    fn every_place_is_named_with_its_failure() {
        assert!(failures(&[]).is_none());
        assert!(matches!(failures(&["a"]), Some(Error::TooLarge { .. })));
        let error = failures(&["a", "b"]).unwrap();
        assert_eq!(
            error.to_string(),
            "ask every endpoint: https://m0/v2: accept a: over the limit of 1 byte; \
             https://m1/v2: accept b: over the limit of 1 byte"
        );
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }

    #[test]
    fn the_text_of_many_or_talkative_places_is_bounded() {
        let long = "ä".repeat(100_000);
        let text = failures(&[long.as_str(); 100]).unwrap().to_string();
        assert!(text.chars().count() < (SHOWN_PLACES + 1) * (SHOWN_CHARS + 10), "{}", text.len());
        assert!(text.contains("92 more; https://m99/v2"), "{text}");
    }
}
