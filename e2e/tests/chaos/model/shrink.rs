//! A shorter sequence that fails as well: pieces are left out, halves first, as long as it does. Source: Zeller and
//! Hildebrandt, "Simplifying and isolating failure-inducing input".

/// What is left; the whole is known to fail. `fails` may give up by saying no.
pub(crate) fn shrink<T: Clone>(whole: &[T], mut fails: impl FnMut(&[T]) -> bool) -> Vec<T> {
    let mut left = whole.to_vec();
    let mut size = left.len().div_ceil(2);
    while size > 0 {
        let mut at = 0;
        while at < left.len() {
            let end = left.len().min(at + size);
            let shorter = [&left[..at], &left[end..]].concat();
            // What follows has moved up.
            if fails(&shorter) { left = shorter } else { at = end }
        }
        size /= 2;
    }
    left
}

#[test]
fn what_has_no_part_in_a_failure_is_left_out() {
    let whole: Vec<u32> = (0..100).collect();
    let fails = |steps: &[u32]| steps.contains(&17) && steps.contains(&18) && steps.contains(&90);
    assert_eq!(shrink(&whole, fails), [17, 18, 90]);
    assert_eq!(shrink(&whole, |_| false), whole);
    assert_eq!(shrink(&whole, |_| true), [0; 0]);
}
